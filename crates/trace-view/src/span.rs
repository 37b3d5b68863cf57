//! A span as it is held: only what the UI shows, in as few bytes as that takes. What a span says of
//! itself in Jaeger's terms, its tags, is derived here once, so that what is shown and what a
//! search matches cannot differ.

use std::{mem, sync::Arc};

use serde::Serialize;

use crate::ids::{SpanId, TraceId};

/// One operation of one service.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) id: SpanId,
    pub(crate) parent: Option<SpanId>,
    pub(crate) operation: Arc<str>,
    pub(crate) process: Arc<Process>,
    pub(crate) kind: Kind,
    pub(crate) status: Status,
    pub(crate) start_ns: u64,
    pub(crate) duration_ns: u64,
    pub(crate) attributes: Box<[Attribute]>,
    pub(crate) events: Box<[Event]>,
    pub(crate) links: Box<[Link]>,
    /// Whether something of it was over a limit, here or where it was made, and is missing.
    pub(crate) cut: bool,
}

/// The program that a span comes from: an OTLP resource.
#[derive(Debug, PartialEq)]
pub(crate) struct Process {
    pub(crate) service: Arc<str>,
    pub(crate) attributes: Box<[Attribute]>,
}

/// A named value.
#[derive(Debug, PartialEq)]
pub(crate) struct Attribute {
    pub(crate) key: Arc<str>,
    pub(crate) value: Value,
}

/// The value of an attribute. What OTLP nests (lists, maps) is held as its JSON text, which is how
/// Jaeger shows it.
#[derive(Debug, PartialEq)]
pub(crate) enum Value {
    Text(Arc<str>),
    Bool(bool),
    Int(i64),
    Double(f64),
}

/// Something that happened during a span.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) at_ns: u64,
    pub(crate) name: Arc<str>,
    pub(crate) attributes: Box<[Attribute]>,
}

/// A span that this one came from without being its child, such as the publisher of a message that
/// was read later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
}

/// How the operation ended.
#[derive(Debug)]
pub(crate) enum Status {
    Unset,
    Ok,
    Error(Option<Arc<str>>),
}

/// The side of a call that a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Unspecified,
    Internal,
    Server,
    Client,
    Producer,
    Consumer,
}

/// One tag in Jaeger's sense.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tag<'a> {
    pub(crate) key: &'a str,
    pub(crate) value: TagValue<'a>,
}

/// The value of a tag, written as the JSON value of its type.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub(crate) enum TagValue<'a> {
    Text(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
}

impl Span {
    /// The span's own attributes and what Jaeger derives from kind and status.
    pub(crate) fn tags(&self) -> impl Iterator<Item = Tag<'_>> {
        let kind = self.kind.name().map(|name| Tag::text("span.kind", name));
        tags_of(&self.attributes)
            .chain(kind)
            .chain(self.status.tags())
    }

    /// Whether the span, its process or one of its events has the tag `key` reading `text`.
    pub(crate) fn has_tag(&self, key: &str, text: &str) -> bool {
        let reads = |tag: Tag<'_>| tag.key == key && tag.value.reads(text);
        self.tags().any(reads)
            || tags_of(&self.process.attributes).any(reads)
            || self.events.iter().any(|event| event.fields().any(reads))
    }

    /// Bytes held for this span, texts counted as if none were shared.
    pub(crate) fn weight_bytes(&self) -> usize {
        let events: usize = self.events.iter().map(Event::weight_bytes).sum();
        mem::size_of::<Self>()
            + self.operation.len()
            + attributes_weight_bytes(&self.attributes)
            + events
            + mem::size_of_val(&*self.links)
    }
}

impl Process {
    /// Bytes held for this process, texts counted as if none were shared.
    pub(crate) fn weight_bytes(&self) -> usize {
        mem::size_of::<Self>() + self.service.len() + attributes_weight_bytes(&self.attributes)
    }
}

impl Event {
    /// The event as the fields of a Jaeger log line.
    pub(crate) fn fields(&self) -> impl Iterator<Item = Tag<'_>> {
        std::iter::once(Tag::text("event", &self.name)).chain(tags_of(&self.attributes))
    }

    fn weight_bytes(&self) -> usize {
        mem::size_of::<Self>() + self.name.len() + attributes_weight_bytes(&self.attributes)
    }
}

impl Status {
    fn tags(&self) -> impl Iterator<Item = Tag<'_>> {
        let (code, failed, description) = match self {
            Self::Unset => (None, false, None),
            Self::Ok => (Some("OK"), false, None),
            Self::Error(description) => (Some("ERROR"), true, description.as_deref()),
        };
        let error = failed.then_some(Tag {
            key: "error",
            value: TagValue::Bool(true),
        });
        let code = code.map(|code| Tag::text("otel.status_code", code));
        let description = description.map(|text| Tag::text("otel.status_description", text));
        error.into_iter().chain(code).chain(description)
    }
}

impl Kind {
    /// Every kind that has a name.
    pub(crate) const NAMED: [Self; 5] = [
        Self::Internal,
        Self::Server,
        Self::Client,
        Self::Producer,
        Self::Consumer,
    ];

    /// Jaeger's word for the kind.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Unspecified => None,
            Self::Internal => Some("internal"),
            Self::Server => Some("server"),
            Self::Client => Some("client"),
            Self::Producer => Some("producer"),
            Self::Consumer => Some("consumer"),
        }
    }
}

impl<'a> Tag<'a> {
    fn text(key: &'a str, text: &'a str) -> Self {
        Self {
            key,
            value: TagValue::Text(text),
        }
    }
}

impl TagValue<'_> {
    /// Jaeger's name for the type.
    pub(crate) fn type_name(self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int64",
            Self::Double(_) => "float64",
        }
    }

    /// Whether a person who reads the value reads `text`: searches are typed, whatever the value's
    /// type.
    fn reads(self, text: &str) -> bool {
        match self {
            Self::Text(own) => own == text,
            Self::Bool(own) => text.parse() == Ok(own),
            Self::Int(own) => text.parse() == Ok(own),
            Self::Double(own) => text.parse() == Ok(own),
        }
    }
}

/// The attributes as tags.
pub(crate) fn tags_of(attributes: &[Attribute]) -> impl Iterator<Item = Tag<'_>> {
    attributes.iter().map(|attribute| {
        let value = match &attribute.value {
            Value::Text(text) => TagValue::Text(text),
            Value::Bool(own) => TagValue::Bool(*own),
            Value::Int(own) => TagValue::Int(*own),
            Value::Double(own) => TagValue::Double(*own),
        };
        Tag {
            key: &attribute.key,
            value,
        }
    })
}

fn attributes_weight_bytes(attributes: &[Attribute]) -> usize {
    let texts = attributes.iter().map(|attribute| match &attribute.value {
        Value::Text(text) => text.len(),
        Value::Bool(_) | Value::Int(_) | Value::Double(_) => 0,
    });
    mem::size_of_val(attributes) + texts.sum::<usize>()
}
