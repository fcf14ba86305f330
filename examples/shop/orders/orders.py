"""The shop's orders: checks them against the catalog, has them paid, keeps them in PostgreSQL.

POST /api/orders with {"sku", "quantity"}: 201 with {"id", "total_cents", "payment_id", ...}. With a
header Idempotency-Key, the same key places one order, however often it is sent.
GET /api/orders/{id}; GET /healthz.
"""

import json
import os
import socket
import sys
import urllib.parse
import uuid

from flask import Flask, g, jsonify, request
from werkzeug.exceptions import HTTPException

import store
import upstream

QUANTITY_MAX = 1000
SKU_MAX = 64
IDEMPOTENCY_KEY_MAX = 128
CATALOG_URL = os.environ.get("CATALOG_URL", "http://catalog:8000")
PAYMENTS_URL = os.environ.get("PAYMENTS_URL", "http://payments:8000")
# The database may still be starting when this service does.
DATABASE_WAIT_SECONDS = 60

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 64 * 1024
orders = store.Store(os.environ["DATABASE_URL"])


class Refused(Exception):
    """The request is answered with this status and reason."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status
        self.reason = reason


@app.before_request
def take_trace():
    g.traceparent = request.headers.get("traceparent")


@app.after_request
def name_replica(response):
    response.headers["x-served-by"] = socket.gethostname()
    return response


@app.post("/api/orders")
def place_order():
    sku, quantity = requested_item()
    key = request.headers.get("idempotency-key")
    if key is not None:
        if not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX:
            raise Refused(400, f"Idempotency-Key must have 1 to {IDEMPOTENCY_KEY_MAX} characters")
        known = orders.by_idempotency_key(key)
        if known:
            return replayed(known, sku, quantity)
    total_cents = price_cents(sku) * quantity
    # With an idempotency key the order's id follows from it, so that a second attempt after a
    # crash between payment and insert finds the payment made by the first.
    order_id = str(uuid.uuid5(uuid.NAMESPACE_OID, key) if key else uuid.uuid4())
    order = orders.insert(
        {
            "id": order_id,
            "sku": sku,
            "quantity": quantity,
            "total_cents": total_cents,
            "payment_id": pay(order_id, total_cents),
            "idempotency_key": key,
        }
    )
    log("order placed", order_id=order["id"], total_cents=order["total_cents"])
    return replayed(order, sku, quantity)


@app.get("/api/orders/<order_id>")
def show_order(order_id):
    order = orders.by_id(order_id) if is_order_id(order_id) else None
    if order is None:
        raise Refused(404, f"there is no order '{order_id}'")
    return jsonify(shown(order))


@app.get("/healthz")
def healthz():
    orders.ping()
    return jsonify(status="ok")


def requested_item():
    """The sku and quantity asked for. 400 for what is no JSON object, 422 for wrong values."""
    try:
        body = json.loads(request.get_data(), parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refused(400, 'the body must be a JSON object such as {"sku": "rope", "quantity": 1}')
    sku = body.get("sku")
    if not isinstance(sku, str) or not 1 <= len(sku) <= SKU_MAX or not sku.isprintable():
        raise Refused(422, "sku must be the sku of a product, as a string")
    quantity = body.get("quantity")
    if not isinstance(quantity, int) or isinstance(quantity, bool):
        raise Refused(422, "quantity must be a whole number")
    if not 1 <= quantity <= QUANTITY_MAX:
        raise Refused(422, f"quantity must be between 1 and {QUANTITY_MAX}")
    return sku, quantity


def is_order_id(text):
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def price_cents(sku):
    path = "/api/catalog/" + urllib.parse.quote(sku, safe="")
    status, product = upstream.call(CATALOG_URL, "GET", path, g.traceparent)
    if status == 404:
        raise Refused(422, f"there is no product '{sku}'")
    if status != 200:
        raise upstream.Unavailable(f"catalog answered {status}")
    return product["price_cents"]


def pay(order_id, amount_cents):
    status, payment = upstream.call(
        PAYMENTS_URL,
        "POST",
        "/payments",
        g.traceparent,
        {"order_id": order_id, "amount_cents": amount_cents},
    )
    if status == 409:
        raise Refused(409, "this idempotency key was used for another order")
    if status != 201:
        raise upstream.Unavailable(f"payments answered {status}")
    return payment["payment_id"]


def replayed(order, sku, quantity):
    if (order["sku"], order["quantity"]) != (sku, quantity):
        raise Refused(409, "this idempotency key was used for another order")
    return jsonify(shown(order)), 201, {"location": f"/api/orders/{order['id']}"}


def shown(order):
    return {
        "id": order["id"],
        "sku": order["sku"],
        "quantity": order["quantity"],
        "total_cents": order["total_cents"],
        "payment_id": order["payment_id"],
        "created_at": order["created_at"].isoformat(timespec="seconds"),
    }


@app.errorhandler(Refused)
def refused(error):
    return jsonify(error=error.reason), error.status


@app.errorhandler(store.Unavailable)
@app.errorhandler(upstream.Unavailable)
def unavailable(error):
    log("unavailable", reason=str(error))
    return jsonify(error=f"try again: {error}"), 503, {"retry-after": "1"}


@app.errorhandler(HTTPException)
def http_error(error):
    return jsonify(error=error.description), error.code


def log(message, **fields):
    """One line of JSON, with the trace that the request belongs to."""
    line = {"message": message, "traceparent": g.get("traceparent"), "fields": fields}
    print(json.dumps(line), flush=True)


with app.app_context():
    try:
        orders.wait(DATABASE_WAIT_SECONDS)
    except store.Unavailable as error:
        # Ends the process, so that the restart policy decides what comes next.
        print(f"no database after {DATABASE_WAIT_SECONDS} s: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
