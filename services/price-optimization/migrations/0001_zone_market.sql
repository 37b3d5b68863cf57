-- The schema `pricing`: what the batch job leaves for quotes in the dataflow mode `database`.

-- One row a zone, rewritten as a whole by every run of the batch job, in one transaction: a quote sees the market of
-- one run, never half of two. All `_as_of` columns hold market time; NULL means that the feed has told nothing yet.
CREATE TABLE zone_market (
    zone          text PRIMARY KEY,               -- H3 cell of resolution 7, hexadecimal
    supply        double precision,               -- drivers predicted to be available in the next window
    supply_as_of  timestamptz,
    demand        double precision,               -- ride requests expected in the next window
    demand_as_of  timestamptz,
    traceparent   text,                           -- the batch run that wrote the row
    written_at    timestamptz NOT NULL DEFAULT now() -- real time
);
