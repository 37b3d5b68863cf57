-- One PostgreSQL, three owners. Each service has a schema and a role of its own; what another service may read is a view
-- that the owner publishes in its migrations. Run once by an administrator, in the database of the suite, before the
-- services start; it may be run again. Passwords are set apart from this file: ALTER ROLE driver_management PASSWORD '...'.

DO $$
DECLARE
    owner text;
BEGIN
    FOREACH owner IN ARRAY ARRAY['driver_management', 'ride_management', 'price_optimization'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = owner) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', owner);
        END IF;
    END LOOP;
END $$;

CREATE SCHEMA IF NOT EXISTS driver AUTHORIZATION driver_management;
CREATE SCHEMA IF NOT EXISTS ride AUTHORIZATION ride_management;
CREATE SCHEMA IF NOT EXISTS pricing AUTHORIZATION price_optimization;

ALTER ROLE driver_management SET search_path = driver;
ALTER ROLE ride_management SET search_path = ride;
ALTER ROLE price_optimization SET search_path = pricing;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
