// Checks of one client: each runs on its own, and says on one JSON line how it went.
// A release that has no such call is `absent`, which the matrix shows: nothing is left out in silence.

export class AbsentFromThisRelease extends Error {}

export function needs(owner, ...names) {
  for (const name of names) {
    if (owner[name] === undefined) throw new AbsentFromThisRelease(name)
  }
}

export async function eventually(holds, seconds = 30) {
  const giveUp = Date.now() + seconds * 1000
  while (!(await holds())) {
    if (Date.now() > giveUp) throw new Error(`not within ${seconds} s`)
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
}

export async function runAll(checks) {
  for (const [check, run] of Object.entries(checks)) {
    const begun = Date.now()
    let outcome = 'passed'
    let detail = ''
    try {
      await run()
    } catch (error) {
      if (error instanceof AbsentFromThisRelease) {
        outcome = 'absent'
        detail = error.message
      } else {
        outcome = 'failed'
        detail = `${error?.constructor?.name}: ${error?.message}`
      }
    }
    const seconds = Number(((Date.now() - begun) / 1000).toFixed(2))
    console.log(JSON.stringify({ check, outcome, detail, seconds }))
  }
  // Some releases keep connections open, which would keep this process.
  process.exit(0)
}
