'use strict';

// A small shop: what a container usually runs, with the work of routing, parsing and
// serialising in each answer.

const path = require('path');
const express = require('express');

const PORT = 3000;

const products = Array.from({ length: 48 }, (_, index) => ({
  id: index + 1,
  name: `Crate no. ${index + 1}`,
  price: 995 + 250 * index,
  stock: 3 + (index * 7) % 20,
  description: `A crate of ${4 + (index % 9)} boards, planed on both sides.`,
}));

const orders = [];
const shop = express();
shop.disable('x-powered-by');
shop.use(express.json({ limit: '16kb' }));

shop.get('/', (request, response) => response.sendFile(path.join(__dirname, 'index.html')));

shop.get('/products', (request, response) => {
  const words = String(request.query.q || '').toLowerCase();
  response.json(products.filter((product) => product.name.toLowerCase().includes(words)));
});

shop.get('/products/:id', (request, response) => {
  const product = products.find(({ id }) => id === Number(request.params.id));
  if (!product) return response.status(404).json({ error: 'there is no such product' });
  return response.json(product);
});

shop.post('/orders', (request, response) => {
  const { id, count } = request.body;
  const product = products.find((candidate) => candidate.id === id);
  if (!product || !Number.isInteger(count) || count < 1) {
    return response.status(400).json({ error: 'an order is {"id": PRODUCT, "count": NUMBER}' });
  }
  const order = { number: orders.length + 1, id, count, total: count * product.price };
  orders.push(order);
  return response.status(201).json(order);
});

const server = shop.listen(PORT, () => console.log(`listening on ${PORT}`));
// As the first process of a container it has no default action for a signal.
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => server.close(() => process.exit(0)));
}
