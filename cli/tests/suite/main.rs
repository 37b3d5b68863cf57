//! The whole suite on this machine, in one test program, because every further one would link all
//! services again.

mod command;
mod compare;
mod compose_file;
mod kubernetes;
mod stack;
mod support;
mod training;
