-- What ride-management knows, and a good place to start reading it.
--
-- The schema (`ride`) and the role that owns it are made beforehand; the role's search_path is its schema, so no name
-- here is qualified. Columns of type timestamptz hold *market time*, which runs faster than life in a replay; the two
-- exceptions say so. Market time has whole milliseconds, and nothing here is stored finer.

-- One row per ride, from the request to its end. A row is written before its request is acknowledged, so a ride that
-- a rider was told about survives anything that the disk survives.
CREATE TABLE ride (
    ride_id                 uuid PRIMARY KEY,
    rider_id                uuid NOT NULL,
    -- A quote buys one ride: this constraint is what makes a repeated request the same ride, not a second one.
    quote_id                uuid NOT NULL UNIQUE,
    -- requested -> matched -> picked_up -> completed; cancelled and unserved are the other ends.
    state                   text NOT NULL CHECK
        (state IN ('requested', 'matched', 'picked_up', 'completed', 'cancelled', 'unserved')),
    -- H3 cell of the pickup, as text: the name that every other part of the suite uses.
    zone                    text NOT NULL,
    pickup_lat              double precision NOT NULL,
    pickup_lon              double precision NOT NULL,
    dropoff_lat             double precision NOT NULL,
    dropoff_lon             double precision NOT NULL,
    -- The promise of the quote, copied: a ride costs what was promised, whatever the prices do.
    fare_cents              bigint NOT NULL,
    surge_multiplier_tenths integer NOT NULL CHECK (surge_multiplier_tenths >= 10),
    driver_id               uuid,
    requested_at            timestamptz NOT NULL,
    matched_at              timestamptz,
    pickup_due_at           timestamptz,
    dropoff_due_at          timestamptz,
    picked_up_at            timestamptz,
    ended_at                timestamptz,
    -- Real time, by the clock of the database: when driver-management must be called (again) for this ride, to send a
    -- driver to it or, once it has ended, to free the driver. Null when nothing is owed. Whoever takes on a call moves
    -- it into the future first, so it is also a lease: no two callers work on one ride, and a crash delays only.
    supply_call_due_at      timestamptz,
    supply_calls            integer NOT NULL DEFAULT 0,
    -- W3C trace context of the request, so that what happens to the ride later can be linked to it.
    traceparent             text
);

-- Demand is counted over time, and from the index alone.
CREATE INDEX ride_demand ON ride (requested_at) INCLUDE (zone);
-- Few rides are owed a call at any time; finding them must not depend on how many there ever were.
CREATE INDEX ride_supply_call ON ride (requested_at) WHERE supply_call_due_at IS NOT NULL;

-- Since when, up to when, and in what windows demand is counted: exactly one row. `as_of` moves on several times a
-- second also when nobody wants a ride, which is how a reader tells a quiet city from a dead service.
CREATE TABLE watermark (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- Before this instant zero requests mean that nobody looked.
    observed_since timestamptz NOT NULL,
    as_of          timestamptz NOT NULL,
    -- The service writes its FORECAST_WINDOW here at every start; the view below counts in it.
    window_seconds integer NOT NULL CHECK (window_seconds > 0),
    traceparent    text
);

-- Events of this service that wait for JetStream. A row is written in the transaction that it tells about and deleted
-- when it was acknowledged. `created_at` is real time.
CREATE TABLE outbox (
    id          uuid PRIMARY KEY,
    subject     text NOT NULL,
    schema      text NOT NULL,
    payload     bytea NOT NULL,
    traceparent text,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Published: requests per zone and window of the calendar grid, counted from the Unix epoch. Every request counts,
-- served or not, once per ride. It reaches back one day from the window of the watermark, which is as far as the
-- forecast remembers. There is no upper end: what was committed after the watermark counts already.
CREATE VIEW demand_by_zone_window AS
SELECT
    ride.zone,
    date_bin(make_interval(secs => watermark.window_seconds), ride.requested_at, 'epoch'::timestamptz) AS window_start,
    count(*) AS requests
FROM watermark
JOIN ride ON ride.requested_at >=
    date_bin(make_interval(secs => watermark.window_seconds), watermark.as_of, 'epoch'::timestamptz)
    - interval '24 hours'
GROUP BY 1, 2;

-- Published: how far the counts above are complete, and the trace that said so.
CREATE VIEW demand_watermark AS
SELECT observed_since, as_of, window_seconds, traceparent FROM watermark;

-- The views are a contract, like a proto file; the tables behind them stay private.
GRANT USAGE ON SCHEMA ride TO price_optimization;
GRANT SELECT ON demand_by_zone_window, demand_watermark TO price_optimization;
