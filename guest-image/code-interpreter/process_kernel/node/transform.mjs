// Turns a cell into a script whose top level works as a notebook's reader expects: `import` and `await` are
// allowed, and what one cell declares the next one sees and may declare again.
//
// Everything declared at the top of a cell becomes a `var` of the global scope; that a `const` may be assigned
// to is the price of running a cell twice. Lines stay where they are, so that errors name the right ones.

import { createRequire } from 'node:module';

const acorn = createRequire(import.meta.url)('acorn');

// What `import` becomes a call of; the driver defines it.
export const IMPORT = '__import__';

const PARSER_OPTIONS = {
  ecmaVersion: 'latest',
  sourceType: 'script',
  allowAwaitOutsideFunction: true,
  allowImportExportEverywhere: true,
  allowHashBang: true,
};

/**
 * Returns the script, the names that it declares, whether it gives a promise, and whether its value is one
 * to show.
 */
export function transform(code) {
  const source = asExpressionIfObject(code);
  const program = parse(source);
  const cell = new Cell(source);
  program.body.forEach((statement) => cell.findInside(statement, true));
  return cell.rewrite(program.body);
}

function parse(source) {
  try {
    return acorn.parse(source, PARSER_OPTIONS);
  } catch (error) {
    if (!error.loc) throw error;
    // Where in the cell it is helps the reader; where in the parser does not.
    const { line, column } = error.loc;
    error.stack = [`SyntaxError: ${error.message}`, source.split('\n')[line - 1], `${' '.repeat(column)}^`].join('\n');
    throw error;
  }
}

// As in Node's own REPL, `{a: 1}` is an object; only with a semicolon behind it is it a block.
export function mayBeObject(code) {
  return /^\s*\{/.test(code) && !/;\s*$/.test(code);
}

function asExpressionIfObject(code) {
  if (!mayBeObject(code)) return code;
  try {
    const wrapped = `(${code}\n)`;
    acorn.parse(wrapped, PARSER_OPTIONS);
    return wrapped;
  } catch {
    return code;
  }
}

class Cell {
  constructor(source) {
    this.source = source;
    this.edits = [];
    this.names = new Set();
    this.isAsync = false;
    this.nestedVars = [];
  }

  // Looks for what needs rewriting at any depth: imports, and what belongs to the scope of the cell itself.
  findInside(node, isOwnScope, parent = null) {
    if (node.type === 'ImportExpression') {
      this.edit(node.start, node.start + 'import'.length, IMPORT);
    }
    if (isOwnScope) {
      if (node.type === 'AwaitExpression' || (node.type === 'ForOfStatement' && node.await)) this.isAsync = true;
      if (node.type === 'ImportDeclaration') this.isAsync = true;
      if (node.type === 'VariableDeclaration' && node.kind === 'var' && parent !== null) {
        this.nestedVars.push([node, parent]);
      }
    }
    const opensScope = /Function/.test(node.type) || node.type === 'StaticBlock' || node.type === 'PropertyDefinition';
    for (const child of children(node)) this.findInside(child, isOwnScope && !opensScope, node);
  }

  rewrite(statements) {
    const last = statements.at(-1);
    const hasValue = last?.type === 'ExpressionStatement';
    for (const statement of statements) {
      this.rewriteStatement(statement, this.isAsync && statement === last);
    }
    if (!this.isAsync) {
      return { script: this.edited(), names: [...this.names], isAsync: false, hasValue };
    }
    for (const [declaration, parent] of this.nestedVars) this.assignNested(declaration, parent);
    const declared = this.names.size > 0 ? `var ${[...this.names].join(', ')}; ` : '';
    const script = `${declared}(async () => { ${this.edited()}\n})()`;
    return { script, names: [...this.names], isAsync: true, hasValue };
  }

  rewriteStatement(statement, returnsValue) {
    switch (statement.type) {
      case 'ImportDeclaration':
        this.importModule(statement);
        break;
      case 'ExportNamedDeclaration':
        if (statement.declaration) {
          this.edit(statement.start, statement.declaration.start, '');
          this.rewriteStatement(statement.declaration, false);
        } else {
          this.edit(statement.start, statement.end, '');
        }
        break;
      case 'ExportDefaultDeclaration':
        this.edit(statement.start, statement.declaration.start, '');
        if (statement.declaration.id) this.rewriteStatement(statement.declaration, false);
        break;
      case 'VariableDeclaration':
        this.declareVariables(statement);
        break;
      case 'ClassDeclaration':
        this.names.add(statement.id.name);
        this.insert(statement.start, this.isAsync ? `;${statement.id.name} = ` : `var ${statement.id.name} = `);
        this.insert(statement.end, ';');
        break;
      case 'FunctionDeclaration':
        this.names.add(statement.id.name);
        // Hoisted within the wrapper, so assigned to the name outside it before anything else runs.
        if (this.isAsync) this.insertFirst(`globalThis.${statement.id.name} = ${statement.id.name}; `);
        break;
      case 'ExpressionStatement':
        if (returnsValue) {
          this.edit(statement.start, statement.expression.start, ';return (');
          this.edit(statement.expression.end, statement.end, ');');
        }
        break;
    }
  }

  declareVariables(declaration) {
    for (const { id } of declaration.declarations) namesIn(id).forEach((name) => this.names.add(name));
    if (this.isAsync) {
      this.assign(declaration, ';(', ');');
    } else {
      this.edit(declaration.start, declaration.start + declaration.kind.length, 'var');
      if (declaration.kind === 'let') this.initialise(declaration);
    }
  }

  // `let x;` makes x undefined, whatever an earlier cell has put there; `var x;` would not.
  initialise(declaration) {
    for (const { id, init } of declaration.declarations) {
      if (!init) this.insert(id.end, ' = void 0');
    }
  }

  // Turns a declaration into assignments to names that are declared outside the wrapper.
  assign(declaration, open, close) {
    const [first] = declaration.declarations;
    this.edit(declaration.start, first.start, open);
    for (const { id, init } of declaration.declarations) {
      if (init) continue;
      this.insert(id.end, declaration.kind === 'var' ? ` = ${this.textOf(id)}` : ' = void 0');
    }
    this.edit(declaration.declarations.at(-1).end, declaration.end, close);
  }

  // A `var` inside a block or loop belongs to the cell too.
  assignNested(declaration, parent) {
    if (parent.type === 'ExportNamedDeclaration') return;
    for (const { id } of declaration.declarations) namesIn(id).forEach((name) => this.names.add(name));
    const isLoopVariable = /^For(In|Of)Statement$/.test(parent.type) && parent.left === declaration;
    if (isLoopVariable) {
      this.edit(declaration.start, declaration.declarations[0].start, '');
    } else if (parent.type === 'ForStatement' && parent.init === declaration) {
      this.assign(declaration, '(', ')');
    } else {
      this.assign(declaration, /^(BlockStatement|SwitchCase)$/.test(parent.type) ? ';(' : '(', ');');
    }
  }

  importModule(declaration) {
    const properties = [];
    const wanted = [];
    let namespace = null;
    for (const specifier of declaration.specifiers) {
      this.names.add(specifier.local.name);
      if (specifier.type === 'ImportNamespaceSpecifier') {
        namespace = specifier.local.name;
        continue;
      }
      const imported = specifier.type === 'ImportDefaultSpecifier' ? 'default' : specifier.imported.name ?? specifier.imported.value;
      wanted.push(imported);
      properties.push(`${JSON.stringify(imported)}: ${specifier.local.name}`);
    }
    let load = `await ${IMPORT}(${declaration.source.raw}, ${JSON.stringify(wanted)})`;
    if (namespace !== null) load = `${namespace} = ${load}`;
    if (properties.length > 0) load = `({${properties.join(', ')}} = ${load})`;
    const lines = this.textOf(declaration).split('\n').length - 1;
    this.edit(declaration.start, declaration.end, `;${load};${'\n'.repeat(lines)}`);
  }

  textOf(node) {
    return this.source.slice(node.start, node.end);
  }

  edit(start, end, text) {
    this.edits.push({ start, end, text });
  }

  insert(position, text) {
    this.edit(position, position, text);
  }

  insertFirst(text) {
    this.edits.unshift({ start: 0, end: 0, text });
  }

  edited() {
    // Sorting is stable: edits of one place keep their order.
    const edits = this.edits.sort((one, other) => one.start - other.start);
    let result = '';
    let position = 0;
    for (const { start, end, text } of edits) {
      result += this.source.slice(position, start) + text;
      position = end;
    }
    return result + this.source.slice(position);
  }
}

function* children(node) {
  for (const value of Object.values(node)) {
    for (const child of Array.isArray(value) ? value : [value]) {
      if (child && typeof child.type === 'string') yield child;
    }
  }
}

function namesIn(pattern) {
  switch (pattern.type) {
    case 'Identifier':
      return [pattern.name];
    case 'ObjectPattern':
      return pattern.properties.flatMap((property) => namesIn(property.value ?? property.argument));
    case 'ArrayPattern':
      return pattern.elements.filter(Boolean).flatMap(namesIn);
    case 'AssignmentPattern':
      return namesIn(pattern.left);
    case 'RestElement':
      return namesIn(pattern.argument);
    default:
      return [];
  }
}
