// The pages, as text.

const PICTURES = {
  lantern: '<path d="M26 14h12M32 8v6M24 14l-3 8h22l-3-8M21 22v24h22V22M18 46h28v6H18z"/><path d="M32 28c5 6 5 9 0 12-5-3-5-6 0-12z" class="accent"/>',
  sextant: '<path d="M32 8 12 46a34 34 0 0 0 40 0L32 8zM18 36a26 26 0 0 0 28 0"/><path d="M32 8v44" class="accent"/><circle cx="32" cy="24" r="4"/>',
  bell: '<path d="M28 10a4 4 0 0 1 8 0M18 44c6-6 4-14 6-22 1-6 4-8 8-8s7 2 8 8c2 8 0 16 6 22zM14 44h36"/><circle cx="32" cy="50" r="4" class="accent"/>',
  rope: '<ellipse cx="32" cy="20" rx="18" ry="8"/><path d="M14 20v8c0 4 8 8 18 8s18-4 18-8v-8M14 28v8c0 4 8 8 18 8s18-4 18-8v-8M14 36v8c0 4 8 8 18 8s18-4 18-8v-8"/><ellipse cx="32" cy="20" rx="7" ry="3" class="accent"/>',
  compass: '<circle cx="32" cy="32" r="22"/><path d="M32 10v5M32 49v5M10 32h5M49 32h5"/><path d="m32 18 5 14-5 14-5-14z" class="accent"/>',
  flags: '<path d="M14 10v44M14 12h18v14H14zM38 30v24M38 32h16v12H38z"/><path d="m14 12 18 14M14 26l18-14" class="accent"/>',
};

export function products(list, key) {
  const cards = list.map((product) => card(product, key)).join("");
  return layout("Ship's chandlery", `
    <section class="intro">
      <h1>Everything for a ship that keeps&nbsp;floating</h1>
      <p>Six things that have kept crews safe for centuries, from a shop whose services are each behind a bulkhead of their own.</p>
    </section>
    <ul class="products">${cards}</ul>
    <section class="lookup">
      <h2>Where is my order?</h2>
      <form action="/order" method="get">
        <label for="order-id">Order number</label>
        <div class="row">
          <input id="order-id" name="id" required maxlength="64" autocomplete="off" spellcheck="false" placeholder="8f14e45f-ceea-467f-a9d4-…">
          <button class="quiet">Look up</button>
        </div>
      </form>
    </section>`);
}

function card(product, key) {
  const sku = escape(product.sku);
  return `
      <li class="card">
        ${picture(product.sku)}
        <h2>${escape(product.name)}</h2>
        <p>${escape(product.description ?? "")}</p>
        <form action="/order" method="post">
          <input type="hidden" name="sku" value="${sku}">
          <input type="hidden" name="key" value="${key}-${sku}">
          <strong class="price">${money(product.price_cents)}</strong>
          <label class="hidden" for="quantity-${sku}">Quantity of ${escape(product.name)}</label>
          <input id="quantity-${sku}" name="quantity" type="number" value="1" min="1" max="1000" required>
          <button aria-label="Order ${escape(product.name)}">Order</button>
        </form>
      </li>`;
}

export function order(order, product) {
  const name = product ? product.name : order.sku;
  return layout("Your order", `
    <section class="receipt">
      ${picture(order.sku)}
      <p class="status"><span aria-hidden="true">✓</span> Paid and booked</p>
      <h1>Thank you, captain.</h1>
      <dl>
        <div><dt>Order</dt><dd><code>${escape(order.id)}</code></dd></div>
        <div><dt>Goods</dt><dd>${order.quantity} × ${escape(name)}</dd></div>
        <div><dt>Payment</dt><dd><code>${escape(order.payment_id)}</code></dd></div>
        <div><dt>Placed</dt><dd><time datetime="${escape(order.created_at)}">${escape(moment(order.created_at))}</time></dd></div>
        <div class="total"><dt>Total</dt><dd>${money(order.total_cents)}</dd></div>
      </dl>
      <a class="button" href="/">Back to the shop</a>
    </section>`);
}

export function failure(status, reason) {
  return layout(`Error ${status}`, `
    <section class="receipt">
      <p class="status bad"><span aria-hidden="true">!</span> ${status}</p>
      <h1>${status === 503 ? "One compartment is flooded." : "That did not work."}</h1>
      <p>${escape(reason)}</p>
      <a class="button" href="/">Back to the shop</a>
    </section>`);
}

function layout(title, content) {
  return `<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>${escape(title)} · Bulkhead Chandlery</title>
  <link rel="stylesheet" href="/style.css">
  <link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 64 64'%3E%3Ccircle cx='32' cy='32' r='24' fill='none' stroke='%23b4772b' stroke-width='8'/%3E%3C/svg%3E">
</head>
<body>
  <a class="skip" href="#content">Skip to content</a>
  <header>
    <a class="brand" href="/"><svg viewBox="0 0 64 64" aria-hidden="true"><circle cx="32" cy="32" r="24"/><circle cx="32" cy="32" r="13" class="accent"/></svg> Bulkhead Chandlery</a>
    <nav><a href="/api/catalog">Catalog as JSON</a></nav>
  </header>
  <main id="content">${content}
  </main>
  <footer>
    <p>An example of <strong>Bulkhead</strong>: this page is made by <em>storefront</em> from what <em>catalog</em> and <em>orders</em> say; <em>payments</em> sits in a micro VM.</p>
  </footer>
</body>
</html>
`;
}

function picture(sku) {
  const shape = PICTURES[sku] ?? '<circle cx="32" cy="32" r="20"/>';
  return `<svg class="picture" viewBox="0 0 64 64" aria-hidden="true">${shape}</svg>`;
}

function money(cents) {
  return new Intl.NumberFormat("en", { style: "currency", currency: "EUR" }).format(cents / 100);
}

function moment(iso) {
  return new Intl.DateTimeFormat("en", { dateStyle: "long", timeStyle: "short", timeZone: "UTC" }).format(new Date(iso)) + " UTC";
}

function escape(text) {
  return String(text).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
