#!/bin/sh
# PostgreSQL runs this once, after services/roles.sql, when it creates its volume. It gives each service's
# role its password.
set -eu

# psql quotes the password itself, and the password is on no command line.
give() {
    PASSWORD=$2 psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<SQL
\\getenv password PASSWORD
ALTER ROLE $1 PASSWORD :'password';
SQL
}

give driver_management "$DRIVER_MANAGEMENT_PASSWORD"
give ride_management "$RIDE_MANAGEMENT_PASSWORD"
give price_optimization "$PRICE_OPTIMIZATION_PASSWORD"
