// What a team does with the JavaScript code interpreter SDK.

import assert from 'node:assert/strict'
import { Sandbox } from '@e2b/code-interpreter'
import { runAll } from './checks.mjs'

async function withInterpreter(use) {
  const made = await Sandbox.create({ timeoutMs: 180_000 })
  try {
    return await use(made)
  } finally {
    await made.kill()
  }
}

await runAll({
  state_lives_from_cell_to_cell: () =>
    withInterpreter(async (one) => {
      await one.runCode('x = 41')
      assert.equal((await one.runCode('x + 1')).text, '42')
    }),

  output_streams_as_it_comes: () =>
    withInterpreter(async (one) => {
      let said = ''
      await one.runCode("print('one'); print('two')", {
        onStdout: (message) => {
          said += message.line
        },
      })
      assert.equal(said, 'one\ntwo\n')
    }),

  an_error_has_name_value_and_traceback: () =>
    withInterpreter(async (one) => {
      const { error } = await one.runCode('1 / 0')
      assert.equal(error.name, 'ZeroDivisionError')
      assert.match(error.traceback, /1 \/ 0/)
    }),

  a_plot_is_a_picture_and_a_chart: () =>
    withInterpreter(async (one) => {
      const code = "import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2])\nplt.show()"
      const [result] = (await one.runCode(code)).results
      assert(result.png)
      assert.equal(result.chart.type, 'bar')
    }),

  contexts_keep_to_themselves: () =>
    withInterpreter(async (one) => {
      const other = await one.createCodeContext({ cwd: '/tmp' })
      await one.runCode('secret = 1')
      assert.equal((await one.runCode("'secret' in globals()", { context: other })).text, 'False')
    }),

  javascript_runs: () =>
    withInterpreter(async (one) => {
      assert.equal((await one.runCode('[1, 2].map(n => n * 2).join()', { language: 'js' })).text, '2,4')
    }),
})
