#!/bin/sh
# Runs once, after services/roles.sql, when PostgreSQL makes its volume: gives each service's role its password.
set -eu

# psql quotes the value itself, and it is on nobody's command line.
give() {
    PASSWORD=$2 psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<SQL
\\getenv password PASSWORD
ALTER ROLE $1 PASSWORD :'password';
SQL
}

give driver_management "$DRIVER_MANAGEMENT_PASSWORD"
give ride_management "$RIDE_MANAGEMENT_PASSWORD"
give price_optimization "$PRICE_OPTIMIZATION_PASSWORD"
