-- Nobody is believed for ever: drivers fall silent, decline rides and never arrive.

-- Who gave the ride back before its pickup. Such a ride has no driver again, and goes to anybody but these.
ALTER TABLE dispatch ADD COLUMN given_back_by uuid[] NOT NULL DEFAULT '{}';

-- The drivers who may be overdue at a pickup, among the many who are not on the way to one.
CREATE INDEX driver_en_route ON driver (pickup_due_at) WHERE status = 'en_route';

-- A driver without a report for a while before the watermark is no supply: SILENCE_LIMIT of crates/marketplace, which the
-- service applies to the fleet in memory. Every report moves `moved_at`, also that of a car that stands.
CREATE OR REPLACE VIEW supply_by_zone AS
SELECT zone,
       count(*) FILTER (WHERE due_at IS NULL) AS idle_drivers,
       coalesce(array_agg(due_at ORDER BY due_at) FILTER (WHERE due_at IS NOT NULL), '{}') AS dropoffs_due_at
FROM (
    SELECT zone, NULL::timestamptz AS due_at, moved_at FROM driver WHERE status = 'idle'
    UNION ALL
    SELECT dropoff_zone, dropoff_due_at, moved_at FROM driver WHERE status IN ('en_route', 'on_trip')
) AS available
WHERE zone IS NOT NULL AND moved_at > (SELECT as_of FROM supply_watermark) - interval '15 minutes'
GROUP BY zone;
