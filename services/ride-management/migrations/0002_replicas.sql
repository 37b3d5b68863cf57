-- Several replicas of the service share this schema. Each counts demand in memory, so each must learn of the requests that
-- the others took, and no reader may take the word of one for the word of all.

-- Which rides a transaction wrote, for the other replicas to count. Written by the trigger below, so that nobody can forget
-- it; kept for a minute.
CREATE TABLE journal (
    changed_in xid8        NOT NULL DEFAULT pg_current_xact_id(),
    -- The replica whose connection wrote, which counted already; null for anybody else.
    changed_by text        DEFAULT current_setting('surge.replica', true),
    -- Real time, by the clock of this server.
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ids        uuid[]      NOT NULL
);

CREATE INDEX journal_changed_in ON journal (changed_in);

CREATE FUNCTION note_rides() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO journal (ids) SELECT array_agg(ride_id) FROM changed HAVING count(*) > 0;
    RETURN NULL;
END $$;

-- A request counts once and for ever, whatever becomes of the ride: updates are no news.
CREATE TRIGGER ride_inserted AFTER INSERT ON ride
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_rides();

-- "Every request that this replica took up to `as_of` is in the table", with the trace that said so. `seen_at` is real
-- time: a replica that has been silent for three seconds is dead.
CREATE TABLE replica (
    replica_id  uuid        PRIMARY KEY,
    as_of       timestamptz NOT NULL,
    traceparent text,
    seen_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The last one, which has said that it will write no more; whoever comes next goes before it.
    ended       boolean     NOT NULL DEFAULT false
);

-- Before the first replica has spoken, what the one process of earlier days said last.
INSERT INTO replica (replica_id, as_of, traceparent, seen_at, ended)
SELECT '00000000-0000-0000-0000-000000000000', as_of, traceparent, '-infinity', true FROM watermark;

-- All are complete up to where the last of those is who live; when nobody does, of those who lived to the end. `written_at`
-- is when that one said so, in real time like `seen_at`: with it a reader can tell how long rows took to get here from how long
-- they lay here. Null before the first replica.
CREATE VIEW complete AS
SELECT as_of, traceparent, nullif(seen_at, '-infinity') AS written_at FROM replica
WHERE seen_at >= (SELECT max(seen_at) FROM replica) - interval '3 seconds'
ORDER BY ended, as_of LIMIT 1;

-- The published views say what they said before, and when it was written.
CREATE OR REPLACE VIEW demand_by_zone_window AS
SELECT
    ride.zone,
    date_bin(make_interval(secs => watermark.window_seconds), ride.requested_at, 'epoch'::timestamptz) AS window_start,
    count(*) AS requests
FROM watermark
CROSS JOIN complete
JOIN ride ON ride.requested_at >=
    date_bin(make_interval(secs => watermark.window_seconds), complete.as_of, 'epoch'::timestamptz)
    - interval '24 hours'
GROUP BY 1, 2;

CREATE OR REPLACE VIEW demand_watermark AS
SELECT observed_since, complete.as_of, window_seconds, complete.traceparent, complete.written_at
FROM watermark CROSS JOIN complete;

-- What is left is the same for all replicas: since when, and in what windows, demand is counted.
ALTER TABLE watermark DROP COLUMN as_of, DROP COLUMN traceparent;
ALTER TABLE watermark RENAME TO observation;

-- What one replica does for all: publishing levels. Real time.
CREATE TABLE lease (
    work   text        PRIMARY KEY,
    holder uuid        NOT NULL,
    until  timestamptz NOT NULL
);
