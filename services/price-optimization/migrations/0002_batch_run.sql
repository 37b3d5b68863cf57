-- The runs of the batch job: when each read what the producers had published, and when it wrote its rows. No quote reads this;
-- whoever asks for the journey of a quote does. The last thousand are kept.

-- All times are *real time*, and `traceparent` names who wrote: the watermarks that the run read, and the run itself.
CREATE TABLE batch_run (
    run                bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at         timestamptz NOT NULL,
    supply_written_at  timestamptz,          -- driver-management's watermark; NULL where it does not tell
    supply_traceparent text,
    demand_written_at  timestamptz,          -- ride-management's watermark; NULL where it does not tell
    demand_traceparent text,
    read_at            timestamptz NOT NULL,
    written_at         timestamptz NOT NULL, -- just before the rows were
    traceparent        text
);

-- The run that wrote the row; NULL in a row that is older than this step.
ALTER TABLE zone_market ADD COLUMN run bigint;
