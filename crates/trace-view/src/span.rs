//! A span as the store holds it: only what the UI shows, in few bytes.
//!
//! OTLP speaks of attributes, status and events, Jaeger of tags and logs. The translation happens
//! once, when a span arrives, so that the UI shows and a search matches the same tags.

use std::{mem, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use crate::ids::{SpanId, TraceId};

/// One operation of one service.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) id: SpanId,
    pub(crate) parent: Option<SpanId>,
    pub(crate) operation: Arc<str>,
    pub(crate) process: Arc<SpanProcess>,
    pub(crate) kind: SpanKind,
    pub(crate) start_ns: u64,
    pub(crate) duration_ns: u64,
    pub(crate) tags: Box<[Tag]>,
    pub(crate) events: Box<[SpanEvent]>,
    pub(crate) links: Box<[Link]>,
    /// Whether a part of it was over a limit, here or in its sender, and is missing.
    pub(crate) cut: bool,
}

/// The program that a span comes from: an OTLP resource.
#[derive(Debug, PartialEq)]
pub(crate) struct SpanProcess {
    pub(crate) service: Arc<str>,
    pub(crate) tags: Box<[Tag]>,
}

/// A named value, written as Jaeger writes it: `{"key": .., "type": .., "value": ..}`.
#[derive(Debug, PartialEq)]
pub(crate) struct Tag {
    pub(crate) key: Arc<str>,
    pub(crate) value: TagValue,
}

/// The value of a tag. Lists and maps of OTLP are held as their JSON text, as Jaeger shows them.
#[derive(Debug, PartialEq)]
pub(crate) enum TagValue {
    Text(Arc<str>),
    Bool(bool),
    Int(i64),
    Double(f64),
}

/// An event during a span: a log line of Jaeger. Its first field is its name.
#[derive(Debug)]
pub(crate) struct SpanEvent {
    pub(crate) at_ns: u64,
    pub(crate) fields: Box<[Tag]>,
}

/// A cause of this span that is not its parent, such as the span that published a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
}

/// The side of a call that a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SpanKind {
    Unspecified,
    Internal,
    Server,
    Client,
    Producer,
    Consumer,
}

impl Span {
    /// Whether the span, its process or one of its events has the tag `key` with this text.
    pub(crate) fn has_tag(&self, key: &str, text: &str) -> bool {
        let events = self.events.iter().flat_map(|event| &event.fields);
        let mut tags = self.tags.iter().chain(&self.process.tags).chain(events);
        tags.any(|tag| &*tag.key == key && tag.value.reads(text))
    }

    /// Bytes of this span, texts counted as if none were shared.
    pub(crate) fn weight_bytes(&self) -> usize {
        let of_event = |event: &SpanEvent| mem::size_of::<SpanEvent>() + weight_of(&event.fields);
        mem::size_of::<Self>()
            + self.operation.len()
            + weight_of(&self.tags)
            + self.events.iter().map(of_event).sum::<usize>()
            + mem::size_of_val(&*self.links)
    }
}

impl SpanProcess {
    /// Bytes of this process, texts counted as if none were shared.
    pub(crate) fn weight_bytes(&self) -> usize {
        mem::size_of::<Self>() + self.service.len() + weight_of(&self.tags)
    }
}

impl SpanKind {
    /// Every kind that has a name.
    pub(crate) const NAMED: [Self; 5] = [
        Self::Internal,
        Self::Server,
        Self::Client,
        Self::Producer,
        Self::Consumer,
    ];

    /// Jaeger's name of the kind.
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

impl TagValue {
    /// Whether a person would type the value as `text`.
    fn reads(&self, text: &str) -> bool {
        match self {
            Self::Text(own) => &**own == text,
            Self::Bool(own) => text.parse() == Ok(*own),
            Self::Int(own) => text.parse() == Ok(*own),
            Self::Double(own) => text.parse() == Ok(*own),
        }
    }
}

impl Serialize for Tag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tag = serializer.serialize_struct("Tag", 3)?;
        tag.serialize_field("key", &*self.key)?;
        match &self.value {
            TagValue::Text(own) => {
                tag.serialize_field("type", "string")?;
                tag.serialize_field("value", &**own)?;
            }
            TagValue::Bool(own) => {
                tag.serialize_field("type", "bool")?;
                tag.serialize_field("value", own)?;
            }
            TagValue::Int(own) => {
                tag.serialize_field("type", "int64")?;
                tag.serialize_field("value", own)?;
            }
            TagValue::Double(own) => {
                tag.serialize_field("type", "float64")?;
                tag.serialize_field("value", own)?;
            }
        }
        tag.end()
    }
}

fn weight_of(tags: &[Tag]) -> usize {
    let texts = tags.iter().map(|tag| match &tag.value {
        TagValue::Text(text) => text.len(),
        TagValue::Bool(_) | TagValue::Int(_) | TagValue::Double(_) => 0,
    });
    mem::size_of_val(tags) + texts.sum::<usize>()
}
