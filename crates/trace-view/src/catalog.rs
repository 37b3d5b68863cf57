//! The services and operations that the search form offers, taken from *all* spans and not only
//! from roots: a service that is only ever called by others must be found too. They outlive their
//! traces, as in Jaeger, and are bounded: a program that puts ids into its operation names fills
//! its own list and no one else's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Serialize;

use crate::span::{Kind, Span};

/// Services listed; spans of further ones are still found by trace id and by tags.
const MAX_SERVICES: usize = 200;

/// Operations listed of each service.
const MAX_OPERATIONS: usize = 1_000;

/// What has been seen since the start.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    services: BTreeMap<Arc<str>, BTreeSet<(Arc<str>, Kind)>>,
}

/// An operation as the Monitor page of the UI asks for it.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Operation<'a> {
    pub(crate) name: &'a str,
    pub(crate) span_kind: &'static str,
}

impl Catalog {
    /// Notes the service and the operation of a span, while there is room.
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

    /// The operations of a service, sorted, each name once per kind; with `kind`, of that kind
    /// only.
    pub(crate) fn operations(&self, service: &str, kind: Option<Kind>) -> Vec<Operation<'_>> {
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
