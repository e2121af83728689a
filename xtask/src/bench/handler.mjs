// Restate's side of the comparison: a handler that does nothing, behind an ingress that makes it durable.
import * as restate from "@restatedev/restate-sdk";

// The SDK needs it and Debian's Node 18 and 20 lack it.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new Promise((a, b) => ([resolve, reject] = [a, b]));
  return { promise, resolve, reject };
};
const padding = "x".repeat(1000);
const pay = restate.service({ name: "pay", handlers: { pay: async () => ({ id: 1, padding }) } });
restate.serve({ services: [pay], port: Number(process.env.PORT) });
