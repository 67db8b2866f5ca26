// Takes the types out of a cell, with esbuild: it also translates enums, namespaces and decorators.

import { spawnSync } from 'node:child_process';
import { SourceMap } from 'node:module';

import { mayBeObject } from './transform.mjs';

// Unused imports stay: a later cell may use them.
const COMPILER_OPTIONS = { preserveValueImports: true, importsNotUsedAsValues: 'preserve' };
const ARGUMENTS = [
  '--loader=ts', '--target=esnext', '--charset=utf8', '--sourcemap=inline', '--sources-content=false',
  '--log-level=error', '--log-limit=1', '--color=false',
  `--tsconfig-raw=${JSON.stringify({ compilerOptions: COMPILER_OPTIONS })}`,
];
// What cells do to the environment and the working directory must not keep esbuild from being found.
const OPTIONS = { cwd: '/', env: { ...process.env }, encoding: 'utf8', maxBuffer: Infinity };
const SOURCE_MAP = /\/\/# sourceMappingURL=data:application\/json;base64,(\S+)\s*$/;

const sourceMaps = new Map(); // by name of the cell

/** Returns the JavaScript of a cell, and keeps where in the cell each line of it comes from. */
export function strip(code, filename) {
  const asObject = mayBeObject(code) ? esbuild(`(${code}\n)`) : null;
  const { status, stdout, stderr } = asObject?.status === 0 ? asObject : esbuild(code);
  if (status !== 0) throw syntaxError(code, stderr);
  const [comment, encoded] = SOURCE_MAP.exec(stdout);
  sourceMaps.set(filename, new SourceMap(JSON.parse(Buffer.from(encoded, 'base64'))));
  return stdout.slice(0, -comment.length);
}

/** Gives the places in a line of a stack as they are in the cells. */
export function placed(line) {
  return line.replace(/\b(cell \d+):(\d+)(:\d+)?/g, (place, filename, number) => {
    const entry = sourceMaps.get(filename)?.findEntry(number - 1, 0);
    return entry?.originalLine === undefined ? place : `${filename}:${entry.originalLine + 1}`;
  });
}

function esbuild(code) {
  const result = spawnSync('esbuild', ARGUMENTS, { ...OPTIONS, input: code });
  if (result.error) throw result.error;
  return result;
}

function syntaxError(code, report) {
  const message = /\[ERROR\] (.*)/.exec(report)?.[1] ?? report.trim();
  const error = new SyntaxError(message);
  const place = /<stdin>:(\d+):(\d+)/.exec(report);
  const stack = [`SyntaxError: ${message}`];
  if (place) stack.push(code.split('\n')[place[1] - 1], `${' '.repeat(place[2])}^`);
  error.stack = stack.join('\n');
  return error;
}
