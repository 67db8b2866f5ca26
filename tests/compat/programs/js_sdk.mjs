// What a team does with the JavaScript SDK, on whichever release of `e2b` is installed.

import assert from 'node:assert/strict'
import * as e2b from 'e2b'
import { AbsentFromThisRelease, eventually, needs, runAll } from './checks.mjs'

const { Sandbox } = e2b

async function withSandbox(options, use) {
  const made = await Sandbox.create('base', { timeoutMs: 120_000, ...options })
  try {
    return await use(made)
  } finally {
    await made.kill()
  }
}

async function listed() {
  const found = await Sandbox.list()
  if (Array.isArray(found)) return found
  const every = []
  while (found.hasNext) every.push(...(await found.nextItems()))
  return every
}

async function pause(one) {
  for (const name of ['pause', 'betaPause']) {
    if (one[name] !== undefined) return one[name]()
  }
  throw new AbsentFromThisRelease('pause')
}

async function withVolume(use) {
  needs(e2b, 'Volume')
  const made = await e2b.Volume.create(`compat-js-${Date.now()}`)
  try {
    return await use(made)
  } finally {
    await e2b.Volume.destroy(made.volumeId)
  }
}

const PROBE = "timeout 3 bash -c 'exec 3<>/dev/tcp/198.18.0.1/80' && echo open || echo closed"

await runAll({
  create_info_list_and_kill: () =>
    withSandbox({ metadata: { who: 'compat', 'odd key': 'a&b=c/d' } }, async (one) => {
      assert(await one.isRunning())
      const found = (await listed()).find((each) => each.sandboxId === one.sandboxId)
      assert.deepEqual(found.metadata, { who: 'compat', 'odd key': 'a&b=c/d' })
      await one.kill()
      assert(!(await one.isRunning()))
      assert.equal(await Sandbox.kill(one.sandboxId), false)
    }),

  environment_of_create_and_of_a_command: () =>
    withSandbox({ envs: { GREETING: 'hello' } }, async (one) => {
      assert.equal((await one.commands.run('echo $GREETING')).stdout, 'hello\n')
      assert.equal((await one.commands.run('echo $GREETING', { envs: { GREETING: 'ahoy' } })).stdout, 'ahoy\n')
    }),

  a_command_that_fails_says_how: () =>
    withSandbox({}, async (one) => {
      await assert.rejects(one.commands.run('echo err >&2; exit 3'), (error) => {
        assert(error instanceof e2b.CommandExitError)
        assert.equal(error.exitCode, 3)
        assert.equal(error.stderr, 'err\n')
        return true
      })
    }),

  a_command_that_takes_too_long_is_ended: () =>
    withSandbox({}, (one) => assert.rejects(one.commands.run('sleep 30', { timeoutMs: 2000 }), e2b.TimeoutError)),

  background_command_is_listed_and_killed: () =>
    withSandbox({}, async (one) => {
      const slow = await one.commands.run('sleep 60', { background: true })
      assert((await one.commands.list()).some((each) => each.pid === slow.pid))
      assert.equal(await slow.kill(), true)
      assert.equal(await one.commands.kill(slow.pid), false)
    }),

  files_are_written_read_listed_and_removed: () =>
    withSandbox({}, async (one) => {
      await one.files.write('/home/user/a/b.txt', 'written')
      assert.equal(await one.files.read('a/b.txt'), 'written')
      await one.files.rename('a/b.txt', 'a/c.txt')
      assert.deepEqual((await one.files.list('a')).map((each) => each.name), ['c.txt'])
      await one.files.remove('a')
      assert(!(await one.files.exists('a/c.txt')))
    }),

  a_large_file_goes_up_and_comes_down: () =>
    withSandbox({}, async (one) => {
      const content = new Uint8Array(8 * 1024 * 1024).fill(7)
      await one.files.write('large.bin', content.buffer)
      const back = await one.files.read('large.bin', { format: 'bytes' })
      assert.equal(Buffer.compare(Buffer.from(back), Buffer.from(content)), 0)
    }),

  a_directory_is_watched: () =>
    withSandbox({}, async (one) => {
      await one.files.makeDir('watched')
      const seen = []
      const handle = await one.files.watchDir('watched', (event) => seen.push(`${event.type} ${event.name}`))
      await one.files.write('watched/new.txt', 'x')
      await eventually(() => seen.includes('create new.txt'))
      await handle.stop()
    }),

  a_terminal_answers: () =>
    withSandbox({}, async (one) => {
      let said = ''
      const decoder = new TextDecoder()
      const terminal = await one.pty.create({
        cols: 80,
        rows: 24,
        onData: (data) => {
          said += decoder.decode(data)
        },
      })
      await one.pty.sendInput(terminal.pid, new TextEncoder().encode('echo $((6*7)); exit\n'))
      await eventually(() => said.includes('42'))
    }),

  a_port_of_a_service_is_reached_by_its_host: () =>
    withSandbox({}, async (one) => {
      await one.files.write('index.html', 'served')
      await one.commands.run('python3 -m http.server 8123', { background: true })
      await eventually(async () => {
        const answer = await fetch(`https://${one.getHost(8123)}/index.html`)
        return answer.ok && (await answer.text()) === 'served'
      })
    }),

  another_process_connects_to_it: () =>
    withSandbox({}, async (one) => {
      await one.files.write('note', 'kept')
      assert.equal(await (await Sandbox.connect(one.sandboxId)).files.read('note'), 'kept')
    }),

  its_time_is_moved_and_ends_it: () =>
    withSandbox({ timeoutMs: 300_000 }, async (one) => {
      await one.setTimeout(3000)
      await eventually(async () => !(await one.isRunning()), 20)
    }),

  what_it_uses_is_reported: () =>
    withSandbox({}, async (one) => {
      needs(one, 'getMetrics')
      await eventually(async () => (await one.getMetrics()).length > 0)
    }),

  a_pause_keeps_files_and_processes: () =>
    withSandbox({}, async (one) => {
      await one.files.write('kept', 'over the pause')
      const counter = await one.commands.run('while :; do sleep 0.2; done', { background: true })
      await pause(one)
      assert(!(await one.isRunning()))
      const again = await Sandbox.connect(one.sandboxId)
      assert.equal(await again.files.read('kept'), 'over the pause')
      assert((await again.commands.list()).some((each) => each.pid === counter.pid))
    }),

  a_snapshot_starts_as_often_as_asked: () =>
    withSandbox({}, async (one) => {
      needs(one, 'createSnapshot')
      await one.files.write('state', 'of the snapshot')
      const snapshot = await one.createSnapshot()
      for (let copies = 0; copies < 2; copies += 1) {
        const copy = await Sandbox.create(snapshot.snapshotId, { timeoutMs: 60_000 })
        try {
          assert.equal(await copy.files.read('state'), 'of the snapshot')
        } finally {
          await copy.kill()
        }
      }
      assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), true)
    }),

  a_fork_goes_its_own_way: () =>
    withSandbox({}, async (one) => {
      needs(one, 'fork')
      await one.files.write('state', 'common')
      for (const fork of await one.fork({ count: 2 })) {
        const other = fork.sandbox ?? fork
        assert.equal(await other.files.read('state'), 'common')
        await other.kill()
      }
    }),

  its_network_rules_are_replaced_while_it_runs: () =>
    withSandbox({}, async (one) => {
      needs(one, 'updateNetwork')
      await one.updateNetwork({ denyOut: ['0.0.0.0/0'] })
      assert.equal((await one.commands.run(PROBE)).stdout, 'closed\n')
    }),

  a_template_is_built_and_used: async () => {
    needs(e2b, 'Template')
    const name = `compat-js-${Date.now()}`
    const template = e2b.Template().fromTemplate('base').setEnvs({ BUILT_BY: 'compat' }).runCmd('echo built > /home/user/built')
    await e2b.Template.build(template, name, { cpuCount: 1, memoryMB: 512 })
    const one = await Sandbox.create(name, { timeoutMs: 60_000 })
    try {
      assert.equal(await one.files.read('/home/user/built'), 'built\n')
      assert.equal((await one.commands.run('echo $BUILT_BY')).stdout, 'compat\n')
    } finally {
      await one.kill()
    }
  },

  a_volume_is_found_until_it_is_destroyed: () =>
    withVolume(async (one) => {
      assert((await e2b.Volume.list()).some((each) => each.volumeId === one.volumeId))
      assert.equal((await e2b.Volume.connect(one.volumeId)).name, one.name)
      assert.equal(await e2b.Volume.destroy(one.volumeId), true)
      assert.equal(await e2b.Volume.destroy(one.volumeId), false)
    }),

  what_is_in_a_volume_is_written_and_read_without_a_sandbox: () =>
    withVolume(async (one) => {
      await one.makeDir('/a')
      const written = await one.writeFile('/a/ünï cödé.txt', 'written', { mode: 0o640 })
      assert.equal(written.mode & 0o777, 0o640)
      assert.equal(await one.readFile('/a/ünï cödé.txt'), 'written')
      assert.deepEqual((await one.list('/a')).map((entry) => entry.name), ['ünï cödé.txt'])
      await one.remove('/a/ünï cödé.txt')
      assert.equal(await one.exists('/a/ünï cödé.txt'), false)
    }),

  a_volume_outlives_the_sandboxes_that_mount_it: () =>
    withVolume(async (one) => {
      await one.writeFile('/from-outside', 'seed')
      await withSandbox({ volumeMounts: { '/mnt/data': one } }, async (first) => {
        assert.deepEqual((await first.getInfo()).volumeMounts, [{ name: one.name, path: '/mnt/data' }])
        assert.equal(await first.files.read('/mnt/data/from-outside', { user: 'root' }), 'seed')
        await first.commands.run('echo kept > /mnt/data/from-inside', { user: 'root' })
      })
      await withSandbox({ volumeMounts: { '/elsewhere': one.name } }, async (second) => {
        assert.equal((await second.commands.run('cat /elsewhere/from-inside', { user: 'root' })).stdout, 'kept\n')
      })
      assert.equal(await one.readFile('/from-inside'), 'kept\n')
    }),

  a_wrong_key_is_refused: () =>
    assert.rejects(Sandbox.create('base', { apiKey: `e2b_${'0'.repeat(40)}` }), (error) => {
      // Releases of 1.x make a plain SandboxError of a 401.
      assert(error instanceof e2b.AuthenticationError || /401/.test(error.message))
      return true
    }),
})
