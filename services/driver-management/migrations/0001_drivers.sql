-- What driver-management knows, and what it lets others read. A good place to start reading the service.
--
-- Everything here lives in the schema `driver`, which the role's search_path names. Every timestamptz holds *market
-- time*, the clock of the replay, and not the time of this server.

-- One row for each driver who ever went online. The status changes by compare-and-set on `version`, so two changes at
-- the same moment cannot interleave. Positions are superseded within seconds: they arrive late and in batches, newest
-- `moved_at` wins, and they leave `version` alone.
CREATE TABLE driver (
    driver_id      uuid             PRIMARY KEY,
    version        bigint           NOT NULL,
    status         text             NOT NULL CHECK (status IN ('offline', 'idle', 'en_route', 'on_trip')),
    changed_at     timestamptz      NOT NULL,

    -- Where the driver was last seen. The zone is null outside the service area: such a driver is nobody's supply.
    lat            double precision NOT NULL,
    lon            double precision NOT NULL,
    zone           text,
    moved_at       timestamptz      NOT NULL,

    -- The ride under way. Two drivers can never have the same one.
    ride_id        uuid             UNIQUE,
    dropoff_lat    double precision,
    dropoff_lon    double precision,
    dropoff_zone   text,
    pickup_due_at  timestamptz,
    dropoff_due_at timestamptz,

    -- A ride is whole or absent, and exactly the drivers on the way to one or with one in the car have it.
    CHECK (num_nulls(ride_id, dropoff_lat, dropoff_lon, pickup_due_at, dropoff_due_at) IN (0, 5)),
    CHECK ((ride_id IS NOT NULL) = (status IN ('en_route', 'on_trip')))
);

-- What became of each ride that a driver was asked for: the memory that makes Dispatch idempotent, also after the
-- ride is over and its driver is with somebody else. A ride that was released before a driver was found has no driver.
-- Rows are kept for a week of market time.
CREATE TABLE dispatch (
    ride_id        uuid             PRIMARY KEY,
    asked_at       timestamptz      NOT NULL,
    released       boolean          NOT NULL DEFAULT false,
    driver_id      uuid             REFERENCES driver,
    lat            double precision,
    lon            double precision,
    pickup_due_at  timestamptz,
    dropoff_due_at timestamptz,

    CHECK (num_nulls(driver_id, lat, lon, pickup_due_at, dropoff_due_at) IN (0, 5))
);

CREATE INDEX dispatch_asked_at ON dispatch (asked_at);

-- "Every position reported up to `as_of` is in the table above", with the trace that said so. One row.
CREATE TABLE watermark (
    only_row    boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    as_of       timestamptz NOT NULL,
    traceparent text
);

-- Before the service has run for the first time, supply is as old as can be.
INSERT INTO watermark (as_of) VALUES ('epoch');

-- Events on their way to NATS: written in the transaction that they tell about, deleted once JetStream has them.
-- `created_at` is the one exception to market time: it tells an operator how long an event has been waiting.
CREATE TABLE outbox (
    id          uuid        PRIMARY KEY,
    subject     text        NOT NULL,
    schema      text        NOT NULL,
    payload     bytea       NOT NULL,
    traceparent text,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- The published views: the contract with whoever reads supply in batches, as binding as a .proto file. Zones without
-- drivers have no row. Which drop-offs count depends on the reader's window, so all of them are told.
CREATE VIEW supply_by_zone AS
SELECT zone,
       count(*) FILTER (WHERE due_at IS NULL) AS idle_drivers,
       coalesce(array_agg(due_at ORDER BY due_at) FILTER (WHERE due_at IS NOT NULL), '{}') AS dropoffs_due_at
FROM (
    SELECT zone, NULL::timestamptz AS due_at FROM driver WHERE status = 'idle'
    UNION ALL
    SELECT dropoff_zone, dropoff_due_at FROM driver WHERE status IN ('en_route', 'on_trip')
) AS available
WHERE zone IS NOT NULL
GROUP BY zone;

CREATE VIEW supply_watermark AS
SELECT as_of, traceparent FROM watermark;

GRANT USAGE ON SCHEMA driver TO price_optimization;
GRANT SELECT ON supply_by_zone, supply_watermark TO price_optimization;
