//! The command and the local stack. They share one test program, because each further one would
//! link all services again.

mod command;
mod compare;
mod compose_file;
mod kubernetes;
mod programs;
mod script;
mod settings_page;
mod stack;
mod support;
mod training;
