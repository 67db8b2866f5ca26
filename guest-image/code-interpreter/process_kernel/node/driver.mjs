// Runs cells in this process, as the kernel sends them: one line of JSON in for each cell, lines of JSON out for
// what it does. Started as
// `node driver.mjs <javascript | typescript> <descriptor to read> <descriptor to write>`.

import fs from 'node:fs';
import { createRequire, isBuiltin } from 'node:module';
import net from 'node:net';
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';
import { inspect } from 'node:util';
import vm from 'node:vm';

import { IMPORT, transform } from './transform.mjs';

const DISPLAY = Symbol.for('Jupyter.display');
const [language, requestPipe, eventPipe] = process.argv.splice(1).slice(-3);
const [requestDescriptor, eventDescriptor] = [requestPipe, eventPipe].map(Number);
const typescript = language === 'typescript' ? await import('./typescript.mjs') : null;

let endCell = null; // rejects the promise of the running cell

class KeyboardInterrupt extends Error {
  name = 'KeyboardInterrupt';
}

function send(event) {
  const line = Buffer.from(`${JSON.stringify(event)}\n`);
  // Blocks while the kernel is behind, which slows the code down to what can be delivered.
  for (let sent = 0; sent < line.length; ) sent += fs.writeSync(eventDescriptor, line, sent);
}

// Through the kernel's own pipe, so that output and results keep their order.
function captureStream(name) {
  process[name].write = (chunk, encoding, callback) => {
    const text = typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString();
    if (text !== '') send({ type: 'stream', name, text });
    const done = typeof encoding === 'function' ? encoding : callback;
    if (done) process.nextTick(done);
    return true;
  };
}

function representations(value) {
  const own = value?.[DISPLAY];
  return typeof own === 'function' ? own.call(value) : { 'text/plain': inspect(value) };
}

// Shows a value in the middle of a cell; a raw one is an object of MIME types already.
function display(value, { raw = false } = {}) {
  send({ type: 'display', data: raw ? value : representations(value) });
}

// As an `import` in a file of the working directory would.
async function importModule(specifier, names = []) {
  const parent = pathToFileURL(path.join(process.cwd(), 'cell.mjs')).href;
  const url = isBuiltin(specifier) ? specifier : await import.meta.resolve(specifier, parent);
  const namespace = await import(url);
  const missing = names.filter((name) => !(name in namespace));
  if (missing.length === 0) return namespace;
  // Not all that a CommonJS module exports can be known before it runs.
  const all = { ...namespace.default, ...namespace };
  for (const name of missing) {
    if (!(name in all)) {
      throw new SyntaxError(`The requested module '${specifier}' does not provide an export named '${name}'`);
    }
  }
  return all;
}

// Some globals of Node can be read only through an accessor, and an assignment to them would get lost.
function makeAssignable(name) {
  const property = Object.getOwnPropertyDescriptor(globalThis, name);
  if (property?.configurable && !property.writable) {
    Object.defineProperty(globalThis, name, { value: undefined, writable: true, enumerable: true, configurable: true });
  }
}

async function run(code, number) {
  const filename = `cell ${number}`;
  const cell = transform(typescript ? typescript.strip(code, filename) : code);
  cell.names.forEach(makeAssignable);
  const script = new vm.Script(cell.script, { filename });
  const interrupted = new Promise((_, reject) => {
    endCell = reject;
  });
  interrupted.catch(() => {}); // nobody may be waiting for it when it comes
  const value = script.runInThisContext({ breakOnSigint: true, displayErrors: false });
  // A promise that ends the cell is waited for too: what `main()` prints belongs to the cell that calls it.
  const settled = cell.isAsync || cell.hasValue ? await Promise.race([value, interrupted]) : undefined;
  return cell.hasValue ? settled : undefined;
}

function described(error) {
  if (error?.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED') error = new KeyboardInterrupt('Interrupted');
  if (!(error instanceof Error)) {
    const text = inspect(error);
    return { ename: 'Error', evalue: text, traceback: [`Uncaught ${text}`] };
  }
  return { ename: error.name, evalue: error.message, traceback: traceback(error) };
}

// The stack down to the cell: the frames below it are this driver's.
function traceback(error) {
  const lines = String(error.stack ?? error).split('\n');
  const isCell = lines.map((line) => /^\s+at .*\bcell \d+:/.test(line));
  const end = isCell.lastIndexOf(true) + 1 || lines.length;
  const shown = lines.slice(0, end).filter((line) => !/^\s+at .*(driver\.mjs|node:internal)/.test(line));
  return typescript ? shown.map(typescript.placed) : shown;
}

async function execute({ code, number }) {
  try {
    const value = await run(code, number);
    if (value !== undefined) send({ type: 'result', data: representations(value) });
  } catch (error) {
    send({ type: 'error', ...described(error) });
  } finally {
    endCell = null;
    send({ type: 'done' });
  }
}

function reportUncaught(error) {
  process.stderr.write(`Uncaught ${described(error).traceback.join('\n')}\n`);
}

captureStream('stdout');
captureStream('stderr');
process.on('SIGINT', () => endCell?.(new KeyboardInterrupt('Interrupted')));
process.on('uncaughtException', reportUncaught);
process.on('unhandledRejection', reportUncaught);
// Said once by every sandbox that uses fetch, and nobody's concern there.
process.removeAllListeners('warning');
process.on('warning', (warning) => {
  if (warning.name !== 'ExperimentalWarning') process.stderr.write(`${warning.name}: ${warning.message}\n`);
});
Object.assign(globalThis, {
  require: createRequire(path.join(process.cwd(), 'cell.js')),
  display,
  [IMPORT]: importModule,
});

const requests = readline.createInterface({ input: new net.Socket({ fd: requestDescriptor, readable: true, writable: false }) });
requests.on('line', (line) => void execute(JSON.parse(line)));
requests.on('close', () => process.exit());
