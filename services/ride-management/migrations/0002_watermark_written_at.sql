-- When the watermark was written, by the clock of the database: *real time*, the third exception to market time. With it a
-- reader can tell how long rows took to get here from how long they lay here. Null until the first write after this step.
ALTER TABLE watermark ADD COLUMN written_at timestamptz;

CREATE OR REPLACE VIEW demand_watermark AS
SELECT observed_since, as_of, window_seconds, traceparent, written_at FROM watermark;
