# The image of PostgreSQL runs this once, after roles.sql.
psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    --set driver="$DRIVER_MANAGEMENT_PASSWORD" --set ride="$RIDE_MANAGEMENT_PASSWORD" --set price="$PRICE_OPTIMIZATION_PASSWORD" <<'SQL'
ALTER ROLE driver_management PASSWORD :'driver';
ALTER ROLE ride_management PASSWORD :'ride';
ALTER ROLE price_optimization PASSWORD :'price';
SQL
