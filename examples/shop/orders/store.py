"""The orders in PostgreSQL."""

import contextlib
import threading
import time

import psycopg2
import psycopg2.extras
import psycopg2.pool

# Threads of gunicorn plus the health check.
CONNECTIONS_MAX = 10
# Two replicas that start at once must not both create the table.
SCHEMA_LOCK = 0x5109
SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    id              text PRIMARY KEY,
    sku             text NOT NULL,
    quantity        integer NOT NULL CHECK (quantity >= 1),
    total_cents     bigint NOT NULL,
    payment_id      text NOT NULL,
    idempotency_key text UNIQUE,
    created_at      timestamptz NOT NULL DEFAULT now()
)
"""
COLUMNS = "id, sku, quantity, total_cents, payment_id, idempotency_key, created_at"


class Unavailable(Exception):
    """The database cannot be reached; a later attempt may succeed."""


class Store:
    """A pool of connections, made at first use, so that the service may start before its database."""

    def __init__(self, url):
        self._url = url
        self._pool = None
        self._making_pool = threading.Lock()

    def wait(self, seconds):
        """Connects and creates the table; retries for this many seconds while the database starts."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                with self._connection():
                    return
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def ping(self):
        with self._connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    def insert(self, order):
        """Keeps the order. Returns it, or the one kept before under the same idempotency key."""
        with self._connection() as connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO orders (id, sku, quantity, total_cents, payment_id, idempotency_key)"
                " VALUES (%(id)s, %(sku)s, %(quantity)s, %(total_cents)s, %(payment_id)s,"
                " %(idempotency_key)s)"
                " ON CONFLICT DO NOTHING"
                f" RETURNING {COLUMNS}",
                order,
            )
            row = cursor.fetchone()
            if row is None:
                cursor.execute(
                    f"SELECT {COLUMNS} FROM orders WHERE idempotency_key = %s",
                    (order["idempotency_key"],),
                )
                row = cursor.fetchone()
            return row

    def by_id(self, order_id):
        return self._one("id", order_id)

    def by_idempotency_key(self, key):
        return self._one("idempotency_key", key)

    def _one(self, column, value):
        with self._connection() as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT {COLUMNS} FROM orders WHERE {column} = %s", (value,))
            return cursor.fetchone()

    @contextlib.contextmanager
    def _connection(self):
        """A connection in a transaction: committed at the end, rolled back on an exception.

        A connection of the pool may be dead since the database was restarted, so each is tried
        before it is used.
        """
        pool = self._ready_pool()
        try:
            connection = self._live_connection(pool)
        except (psycopg2.OperationalError, psycopg2.pool.PoolError) as error:
            raise Unavailable(str(error).strip()) from error
        try:
            with connection:
                yield connection
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            raise Unavailable(str(error).strip()) from error
        finally:
            pool.putconn(connection, close=bool(connection.closed))

    @staticmethod
    def _live_connection(pool):
        for _ in range(CONNECTIONS_MAX):
            connection = pool.getconn()
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
                connection.rollback()
                return connection
            except psycopg2.Error:
                pool.putconn(connection, close=True)
        return pool.getconn()

    def _ready_pool(self):
        with self._making_pool:
            if self._pool is None:
                try:
                    pool = psycopg2.pool.ThreadedConnectionPool(
                        1,
                        CONNECTIONS_MAX,
                        self._url,
                        connect_timeout=3,
                        cursor_factory=psycopg2.extras.RealDictCursor,
                    )
                except psycopg2.OperationalError as error:
                    raise Unavailable(str(error).strip()) from error
                self._create_table(pool)
                self._pool = pool
            return self._pool

    @staticmethod
    def _create_table(pool):
        connection = pool.getconn()
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
                cursor.execute(SCHEMA)
        except psycopg2.OperationalError as error:
            pool.closeall()
            raise Unavailable(str(error).strip()) from error
        pool.putconn(connection)
