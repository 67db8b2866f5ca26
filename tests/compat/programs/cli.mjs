// What an operator or a script does with E2B's own command, with a key in its environment and no login.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { Sandbox } from 'e2b'
import { runAll } from './checks.mjs'

function cli(...argv) {
  const done = spawnSync(process.execPath, ['node_modules/.bin/e2b', ...argv], {
    encoding: 'utf8',
    timeout: 120_000,
    input: '',
  })
  assert.equal(done.status, 0, `e2b ${argv.join(' ')}: ${done.stdout}${done.stderr}`)
  return done.stdout
}

async function withSandbox(use) {
  const made = await Sandbox.create('base', { timeoutMs: 120_000 })
  try {
    return await use(made)
  } finally {
    await made.kill()
  }
}

await runAll({
  sandboxes_are_listed: () =>
    withSandbox((one) => {
      const found = JSON.parse(cli('sandbox', 'list', '--format', 'json'))
      assert(found.some((each) => each.sandboxId === one.sandboxId))
    }),

  a_command_runs_in_a_sandbox: () =>
    withSandbox((one) => assert.match(cli('sandbox', 'exec', one.sandboxId, 'echo', 'from-the-cli'), /from-the-cli/)),

  a_sandbox_is_described: () =>
    withSandbox((one) => assert.match(cli('sandbox', 'info', one.sandboxId), new RegExp(one.sandboxId))),

  a_sandbox_is_killed: () =>
    withSandbox(async (one) => {
      cli('sandbox', 'kill', one.sandboxId)
      assert(!(await one.isRunning()))
    }),

  the_logs_of_a_sandbox_are_shown: () =>
    withSandbox(async (one) => {
      await one.commands.run('echo to-the-log')
      cli('sandbox', 'logs', one.sandboxId)
    }),

  what_a_sandbox_uses_is_shown: () => withSandbox((one) => cli('sandbox', 'metrics', one.sandboxId)),

  templates_are_listed: () => assert.match(cli('template', 'list'), /base/),
})
