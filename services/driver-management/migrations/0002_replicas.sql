-- Several replicas of the service share this schema. Each keeps the fleet in memory, so each must learn what the others
-- wrote, and no reader may take the word of one for the word of all.

-- Which drivers a transaction wrote, for the other replicas to read again. Notes say who and not what: the row has that.
-- Written by the triggers below, so that nobody can forget it, not even a person at a prompt; kept for a minute.
CREATE TABLE journal (
    changed_in xid8        NOT NULL DEFAULT pg_current_xact_id(),
    -- The replica whose connection wrote, which knows already; null for anybody else.
    changed_by text        DEFAULT current_setting('surge.replica', true),
    -- Real time, by the clock of this server.
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ids        uuid[]      NOT NULL
);

CREATE INDEX journal_changed_in ON journal (changed_in);

CREATE FUNCTION note_drivers() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO journal (ids) SELECT array_agg(driver_id) FROM changed HAVING count(*) > 0;
    RETURN NULL;
END $$;

CREATE TRIGGER driver_inserted AFTER INSERT ON driver
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_drivers();

CREATE TRIGGER driver_updated AFTER UPDATE ON driver
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_drivers();

-- "Every position reported to this replica up to `as_of` is in the table", with the trace that said so. `seen_at` is real
-- time: a replica that has been silent for three seconds is dead, and with it what it had not written.
CREATE TABLE replica (
    replica_id  uuid        PRIMARY KEY,
    as_of       timestamptz NOT NULL,
    traceparent text,
    seen_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The last one, which has said that it will write no more; whoever comes next goes before it.
    ended       boolean     NOT NULL DEFAULT false
);

-- Before the first replica has spoken, what the one process of earlier days said last; at first, as old as can be.
INSERT INTO replica (replica_id, as_of, traceparent, seen_at, ended)
SELECT '00000000-0000-0000-0000-000000000000', as_of, traceparent, '-infinity', true FROM watermark;

-- All are complete up to where the last of those is who live; when nobody does, of those who lived to the end. `written_at`
-- is when that one said so, in real time like `seen_at`: with it a reader can tell how long rows took to get here from how long
-- they lay here. Null before the first replica.
CREATE OR REPLACE VIEW supply_watermark AS
SELECT as_of, traceparent, nullif(seen_at, '-infinity') AS written_at FROM replica
WHERE seen_at >= (SELECT max(seen_at) FROM replica) - interval '3 seconds'
ORDER BY ended, as_of LIMIT 1;

DROP TABLE watermark;

-- What one replica does for all: publishing levels. Real time.
CREATE TABLE lease (
    work   text        PRIMARY KEY,
    holder uuid        NOT NULL,
    until  timestamptz NOT NULL
);
