let compiled: Promise<WebAssembly.Module> | undefined;

/** The module, compiled once; after a failure, at the next call again. */
export function compileModule(): Promise<WebAssembly.Module> {
  compiled ??= loadModule().catch((error: unknown) => {
    compiled = undefined;
    throw error;
  });
  return compiled;
}

async function loadModule(): Promise<WebAssembly.Module> {
  const url = new URL("./peel.wasm", import.meta.url);
  if (url.protocol === "file:") {
    const name = "node:fs/promises"; // in a variable, so that bundlers for browsers pass over it
    const { readFile } = (await import(/* @vite-ignore */ /* webpackIgnore: true */ name)) as {
      readFile(path: URL): Promise<Uint8Array<ArrayBuffer>>;
    };
    return WebAssembly.compile(await readFile(url));
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.href}: the server answers ${response.status}`);
  return WebAssembly.compile(await response.arrayBuffer());
}
