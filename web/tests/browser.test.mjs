// The demo page in a real browser: offline, slider, cache, a torn download, keyboard.
// PEEL_DEMO names a folder that demo/prepare.py made; CHROMIUM the browser; SCREENSHOTS a folder.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { demoHandler } from "../demo/serve.mjs";

const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
const folder =
  process.env.PEEL_DEMO ?? fileURLToPath(new URL("../../build/web/demo", import.meta.url));
const skip = existsSync(chromium) ? false : `NOT RUN: there is no browser at ${chromium}`;
if (skip) console.log(skip);

let server, url, profile, context, page;
const model = { requests: 0, tear: false };
const problems = [];

before(async () => {
  if (skip) return;
  const { chromium: driver } = await import("playwright-core");
  const answer = demoHandler(folder);
  server = createServer((request, response) => {
    if (request.url !== "/model.peel") return answer(request, response);
    ++model.requests;
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
    if (!model.tear || Number(to) - Number(from) < 1000) return answer(request, response);
    const whole = readFileSync(join(folder, "model.peel"));
    const body = whole.subarray(Number(from), Number(to) + 1);
    response.writeHead(206, {
      "Content-Range": `bytes ${from}-${to}/${whole.length}`,
      "Content-Length": body.length,
      "Last-Modified": new Date(0).toUTCString(),
    });
    response.write(body.subarray(0, body.length / 2), () =>
      setTimeout(() => response.destroy(), 100),
    );
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  url = `http://localhost:${server.address().port}/`;
  profile = mkdtempSync(join(tmpdir(), "peel-browser-"));
  context = await driver.launchPersistentContext(profile, {
    executablePath: chromium,
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
    viewport: { width: 390, height: 844 },
  });
  context.setDefaultTimeout(10_000);
  page = await context.newPage();
  page.on("pageerror", (error) => problems.push(String(error)));
});

after(async () => {
  await context?.close();
  server?.closeAllConnections();
  server?.close();
  if (profile) rmSync(profile, { recursive: true, force: true });
});

const texts = (selector) => page.locator(selector).allTextContents();
const text = (selector) => page.locator(selector).textContent();
const like = (place) => page.locator("#choices [aria-pressed=false]").nth(place).click();

/** Waits until f() is true. */
async function until(f) {
  for (let tries = 0; tries < 200; ++tries) {
    if (await f()) return;
    await page.waitForTimeout(25);
  }
  assert.fail(`never: ${f}`);
}

async function moveBudget(to) {
  const before = await text("#held");
  await page.locator("#budget").fill(String(to));
  await until(async () => (await text("#held")) !== before);
}

async function screenshot(name) {
  if (!process.env.SCREENSHOTS) return;
  for (const width of [390, 1280]) {
    for (const colorScheme of ["light", "dark"]) {
      await page.setViewportSize({ width, height: 844 });
      await page.emulateMedia({ colorScheme });
      const path = join(process.env.SCREENSHOTS, `${name}-${width}-${colorScheme}.png`);
      await page.screenshot({ path, fullPage: true });
    }
  }
  await page.setViewportSize({ width: 390, height: 844 });
}

test("what is liked changes the list at once, and the list shipped stays", { skip }, async () => {
  await page.goto(url);
  await until(async () => (await texts("#live li span")).length === 10);
  await moveBudget(5); // what is liked is held
  const [first, shipped] = [await texts("#live li span"), await texts("#shipped li span")];
  for (const place of [1, 4, 6]) await like(place);
  await until(async () => String(await texts("#live li span")) !== String(first));
  const liked = await texts("#choices [aria-pressed=true]");
  assert.equal(liked.length, 3);
  const now = await texts("#live li span");
  assert.ok(!now.some((item) => liked.includes(item)));
  assert.deepEqual(await texts("#shipped li span"), shipped);
  const fresh = now.filter((item) => !shipped.includes(item));
  assert.deepEqual(await texts("#live li:has(small) span"), fresh);
  assert.deepEqual(
    await texts("#shipped li.liked span"),
    shipped.filter((item) => liked.includes(item)),
  );
  await screenshot("start");
});

test("the budget moves bytes and list; growing back fetches nothing", { skip }, async () => {
  await moveBudget(6);
  const whole = await text("#held");
  const list = await texts("#live li span");
  const { requests } = model;
  await moveBudget(0);
  assert.notEqual(await text("#held"), whole);
  assert.notDeepEqual(await texts("#live li span"), list);
  await screenshot("small");
  await moveBudget(6);
  assert.equal(await text("#held"), whole);
  assert.deepEqual(await texts("#live li span"), list);
  assert.equal(model.requests, requests);
});

test("without a network it goes on, also after a reload", { skip }, async () => {
  const list = await texts("#live li span");
  await page.evaluate(() => navigator.serviceWorker.ready);
  await context.setOffline(true);
  await page.reload();
  await until(async () => (await texts("#live li span")).length === 10);
  assert.deepEqual(await texts("#live li span"), list);
  await until(async () => (await text("#status")).startsWith("No network"));
  await like(2);
  await until(async () => String(await texts("#live li span")) !== String(list));
  await moveBudget(1);
  await screenshot("offline");
  await context.setOffline(false);
});

test("the switch cuts the page off, and more bytes than there are stay a wish", { skip }, async () => {
  await page.evaluate(async () => {
    localStorage.clear();
    for (const name of await caches.keys()) await caches.delete(name);
  });
  await page.reload();
  await until(async () => (await texts("#live li span")).length === 10);
  const held = await text("#held");
  await page.locator("#network").uncheck();
  await page.locator("#budget").fill("5");
  await until(async () => (await text("#problem")).includes("no network for more bytes"));
  assert.equal(await text("#held"), held);
  assert.equal(await page.locator("#budget").inputValue(), "2");
  await page.locator("#network").check();
  await moveBudget(5);
  assert.ok(await page.locator("#problem").isHidden());
});

test("a torn download is a smaller model, and goes on later", { skip }, async () => {
  await page.evaluate(() => localStorage.setItem("peel-demo", '{"budgetIndex":1}'));
  await page.evaluate(() => caches.delete("peel-demo"));
  await page.reload(); // a small one, with the ids
  await until(async () => (await texts("#live li span")).length === 10);
  model.tear = true;
  await page.evaluate(() => localStorage.setItem("peel-demo", '{"budgetIndex":6}'));
  await page.reload();
  await until(async () => (await texts("#live li span")).length === 10);
  assert.match(await text("#status"), /^No network: this is what the device has/);
  const torn = await text("#held");
  model.tear = false;
  await page.reload();
  await until(async () => (await text("#held")) !== torn && (await text("#held")) !== "–");
  assert.match(await text("#status"), /^Connected/);
});

test("it works with a keyboard alone", { skip }, async () => {
  await page.locator("#budget").focus();
  const held = await text("#held");
  await page.keyboard.press("ArrowLeft");
  await until(async () => (await text("#held")) !== held);
  await page.locator("#choices button").first().focus();
  await page.keyboard.press("Space");
  await until(async () => (await texts("#choices [aria-pressed=true]")).length === 1);
  assert.equal(
    await page.evaluate(() => document.activeElement.getAttribute("aria-pressed")),
    "true",
  );
  await page.locator("#network").focus();
  await page.keyboard.press("Space");
  await until(async () => (await text("#status")).startsWith("No network"));
  await page.keyboard.press("Space");
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= 390, `${wide} pixels wide on a phone`);
});

test("it works in a worker of the browser, and tears nothing down", { skip }, async () => {
  const answer = await page.evaluate(async () => {
    const code = `
      import { Peel } from "${location.origin}/dist/peel.js";
      const peel = await Peel.open("${location.origin}/model.peel", { cache: "worker", budgetBytes: 20000 });
      postMessage((await peel.recommend({ history: [], n: 3 })).items.length);
    `;
    const blob = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    const worker = new Worker(blob, { type: "module" });
    return new Promise((done, fail) => {
      worker.onmessage = ({ data }) => done(data);
      worker.onerror = (event) => fail(new Error(event.message));
    });
  });
  assert.equal(answer, 3);
  assert.deepEqual(problems, []);
});
