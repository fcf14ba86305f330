#!/bin/bash
# Runs PostgreSQL on the data directory $PGDATA, which is made at the first start with the database
# $POSTGRES_DB, owned by $POSTGRES_USER with the password $POSTGRES_PASSWORD.
set -euo pipefail

: "${PGDATA:?}"
: "${POSTGRES_PASSWORD:?set it to the password of the database user}"
: "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"
export POSTGRES_PASSWORD POSTGRES_USER POSTGRES_DB

# A server must not run as root: what needs root is done here, then this script starts again.
if [[ $(id -u) == 0 ]]; then
    mkdir -p "$(dirname "$PGDATA")" /run/postgresql
    chown postgres:postgres "$(dirname "$PGDATA")" /run/postgresql
    chmod 700 "$(dirname "$PGDATA")"
    exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$0" "$@"
fi

if [[ ! -s $PGDATA/PG_VERSION ]]; then
    # Made beside its place and renamed, so that a start that was killed leaves no half of one.
    fresh=$PGDATA.new
    rm -rf "$fresh"
    initdb --pgdata="$fresh" --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
        --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --no-sync >/dev/null
    echo "host all all all scram-sha-256" >>"$fresh/pg_hba.conf"
    if [[ $POSTGRES_DB != postgres ]]; then
        printf 'CREATE DATABASE "%s" OWNER "%s"\n' "${POSTGRES_DB//\"/\"\"}" "${POSTGRES_USER//\"/\"\"}" |
            postgres --single -D "$fresh" -c log_min_messages=warning postgres >/dev/null
    fi
    sync
    rm -rf "$PGDATA"
    mv "$fresh" "$PGDATA"
fi

# SIGTERM means to PostgreSQL: wait until every client has gone. A service that is stopped must
# not wait for its clients, so both signals are passed on as SIGINT, the fast shutdown.
stop() { kill -INT "$server" 2>/dev/null || true; }
trap stop TERM INT

postgres -D "$PGDATA" \
    -c listen_addresses='*' -c unix_socket_directories=/run/postgresql \
    -c shared_buffers=32MB -c max_connections=50 -c max_wal_size=128MB -c min_wal_size=32MB "$@" &
server=$!
while true; do
    status=0
    wait "$server" || status=$?
    # A wait that a signal interrupted ends early, while the server is still there.
    kill -0 "$server" 2>/dev/null || exit "$status"
done
