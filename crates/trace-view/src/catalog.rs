//! The services and operations that the search form offers. They come from *all* spans, not only
//! from roots, so that the form offers a service that never starts a trace. They outlive their
//! traces, as in Jaeger, and are bounded per service: a program with ids in its operation names
//! fills only its own list.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Serialize;

use crate::span::{Span, SpanKind};

/// Services in the list; a search by trace id or tags also finds spans of further ones.
const MAX_SERVICES: usize = 200;

/// Operations in the list of each service.
const MAX_OPERATIONS: usize = 1_000;

/// All services and operations since the start.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    services: BTreeMap<Arc<str>, BTreeSet<(Arc<str>, SpanKind)>>,
}

/// An operation as the Monitor page of the UI asks for it.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Operation<'a> {
    pub(crate) name: &'a str,
    pub(crate) span_kind: &'static str,
}

impl Catalog {
    /// Adds the service and the operation of a span, while there is room.
    pub(crate) fn record(&mut self, span: &Span) {
        let service = &span.process.service;
        if !self.services.contains_key(service) && self.services.len() < MAX_SERVICES {
            self.services.insert(Arc::clone(service), BTreeSet::new());
        }
        if let Some(operations) = self.services.get_mut(service)
            && operations.len() < MAX_OPERATIONS
        {
            operations.insert((Arc::clone(&span.operation), span.kind));
        }
    }

    /// The services, sorted.
    pub(crate) fn services(&self) -> Vec<&str> {
        self.services.keys().map(|service| &**service).collect()
    }

    /// The operations of a service, sorted, each name once per kind; only those of `kind` if given.
    pub(crate) fn operations(&self, service: &str, kind: Option<SpanKind>) -> Vec<Operation<'_>> {
        let operations = self.services.get(service).into_iter().flatten();
        operations
            .filter(|(_, own)| kind.is_none_or(|kind| kind == *own))
            .map(|(name, kind)| Operation {
                name,
                span_kind: kind.name().unwrap_or_default(),
            })
            .collect()
    }
}
