//! Turns a compiled witness program into a [`Graph`], by running it once with symbols for its inputs.
//!
//! circom's programs compute addresses and loop counters from constants alone, and touch signals only through the run time's field
//! functions (`Fr_add` and the like). So everything but those runs as it is, and each field function on a symbol leaves an
//! instruction in the graph. Where a program branches on a symbol, both branches run: when one of them reports an error the
//! condition becomes an assertion, else the values that differ afterwards become selections. What this doesn't cover (an address
//! computed from a symbol, a loop whose length depends on one) is refused, never guessed.

use std::collections::BTreeMap;

use ark_bn254::Fr;
use ark_ff::{Field, One, Zero};

use super::{
    field::{self, Operator},
    graph::{Assertion, Builder, Graph, Id, Input},
    wasm::{Function, Module, Op, Reason},
};
use crate::raw;

/// Bytes of a field element: a short value, flags, and 32 bytes of a long one.
const CELL: u32 = 40;
const CELL_WORDS: usize = CELL as usize / 4;
const PAGE: usize = 1 << 16;
/// Bounds on what a program may use: 1 GiB of memory, calls this deep, this many instructions.
const MAX_PAGES: usize = 1 << 14;
const MAX_DEPTH: usize = 100;
/// Blocks within blocks and calls, together: what the tracer's own stack must hold.
const MAX_NESTING: usize = 400;
const MAX_STEPS: u64 = 20_000_000_000;

/// What a function is to the tracer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Plain,
    Operator(Operator),
    Copy,
    CopyMany,
    IsTrue,
    ToInt,
    EqualRaw,
    ToLong,
    SetInput,
    Message,
    Fail,
    Ignore,
}

impl Role {
    fn of(f: &Function) -> Self {
        if f.code.is_none() {
            return if f.name == "exceptionHandler" { Self::Fail } else { Self::Ignore };
        }
        match f.name.as_str() {
            "Fr_copy" => Self::Copy,
            "Fr_copyn" => Self::CopyMany,
            "Fr_isTrue" => Self::IsTrue,
            "Fr_toInt" => Self::ToInt,
            "Fr_eqR" => Self::EqualRaw,
            "Fr_toLongNormal" => Self::ToLong,
            "setInputSignal" => Self::SetInput,
            "buildBufferMessage" => Self::Message,
            name => Operator::from_name(name).map_or(Self::Plain, Self::Operator),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    I32(u32),
    I64(u64),
    /// Whether the node isn't zero, or is when negated.
    Truth {
        node: Id,
        negated: bool,
    },
    /// Differs between two branches.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Branch(u32),
    Return,
    /// The program gave up.
    Fail,
}

/// A field element's place in memory: nothing was stored there by a field function; a node; or the rest of one that was
/// partly overwritten.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    Raw,
    Node(Id),
    Spoilt,
}

/// What a write overwrote.
enum Undo {
    Cell(usize, Cell),
    Byte(usize, u8),
}

struct Tracer<'m> {
    module: &'m Module,
    roles: Vec<Role>,
    memory: Vec<u8>,
    /// By 4-byte word.
    cells: Vec<Cell>,
    /// The constants that raw memory was found to hold, by word.
    decoded: Vec<Option<Id>>,
    builder: Builder,
    /// One journal for each branch that is being tried.
    journals: Vec<Vec<Undo>>,
    /// The conditions under which this place is reached.
    path: Vec<(Id, bool)>,
    message: Option<(String, u32)>,
    setting_input: bool,
    depth: usize,
    nesting: usize,
    steps: u64,
}

struct Frame {
    function: u32,
    locals: Vec<Value>,
    stack: Vec<Value>,
}

impl Frame {
    fn pop(&mut self) -> Result<Value, Reason> {
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn pop_u32(&mut self) -> Result<u32, Reason> {
        match self.pop()? {
            Value::I32(x) => Ok(x),
            v => Err(format!("an address or a count depends on an input: {v:?}")),
        }
    }

    fn local(&mut self, i: u32) -> Result<&mut Value, Reason> {
        self.locals.get_mut(i as usize).ok_or_else(|| format!("local {i} is missing"))
    }
}

/// Makes the graph of a witness program.
pub(super) fn trace(module: &Module) -> Result<Graph, Reason> {
    let mut t = Tracer::new(module)?;
    t.call_export("init", &[Value::I32(0)])?;
    // The exchange with the host is a field element, of which the host sees the long part.
    let shared =
        t.call_export("getSharedRWMemoryStart", &[])?.checked_sub(8).ok_or("the shared memory is misplaced")?;
    let inputs = t.input_table()?;
    for (hash, len) in inputs {
        let first = t.builder.input_count();
        t.builder.inputs.insert(hash, Input { first, len });
        for position in 0..len {
            let node = t.builder.input();
            t.set_cell(shared, node)?;
            t.call_export(
                "setInputSignal",
                &[Value::I32((hash >> 32) as u32), Value::I32(hash as u32), Value::I32(position)],
            )?;
        }
    }
    let size = t.call_export("getWitnessSize", &[])?;
    let mut witness = Vec::new();
    for i in 0..size {
        t.call_export("getWitness", &[Value::I32(i)])?;
        witness.push(t.cell(shared)?);
    }
    Ok(t.builder.finish(&witness))
}

impl<'m> Tracer<'m> {
    fn new(module: &'m Module) -> Result<Self, Reason> {
        let pages = module.memory_pages as usize;
        if pages > MAX_PAGES {
            return Err(format!("it wants {pages} pages of memory"));
        }
        let mut memory = vec![0; pages * PAGE];
        for (at, bytes) in &module.data {
            memory
                .get_mut(*at as usize..*at as usize + bytes.len())
                .ok_or("a data segment lies outside the memory")?
                .copy_from_slice(bytes);
        }
        let mut t = Self {
            module,
            roles: module.functions.iter().map(Role::of).collect(),
            cells: vec![Cell::Raw; memory.len() / 4],
            decoded: vec![None; memory.len() / 4],
            memory,
            builder: Builder::default(),
            journals: Vec::new(),
            path: Vec::new(),
            message: None,
            setting_input: false,
            depth: 0,
            nesting: 0,
            steps: 0,
        };
        for needed in [Role::Copy, Role::IsTrue, Role::Operator(Operator::Mul), Role::SetInput] {
            if !t.roles.contains(&needed) {
                return Err("its functions have no names, or not those of circom's run time".into());
            }
        }
        // Number 0 in constants, for what comes later.
        t.builder.constant(Fr::zero());
        Ok(t)
    }

    fn call_export(&mut self, name: &str, args: &[Value]) -> Result<u32, Reason> {
        let index = *self.module.exports.get(name).ok_or_else(|| format!("function {name} is not exported"))?;
        let mut frame = Frame { function: index, locals: Vec::new(), stack: args.to_vec() };
        match self.call(index, &mut frame)? {
            Flow::Next => match frame.stack.pop() {
                None => Ok(0),
                Some(Value::I32(x)) => Ok(x),
                Some(v) => Err(format!("{name} returns {v:?}")),
            },
            _ => Err(match &self.message {
                Some((template, line)) => {
                    format!("template {template}, line {line} refuses all inputs")
                }
                None => format!("{name} fails whatever the inputs are"),
            }),
        }
    }

    /// Names' hashes and sizes, by the places of the signals: the table that `getInputSignalMapPosition` searches.
    fn input_table(&mut self) -> Result<Vec<(u64, u32)>, Reason> {
        let find = self
            .module
            .functions
            .iter()
            .find(|f| f.name == "getInputSignalMapPosition")
            .and_then(|f| f.code.as_ref())
            .ok_or("the table of inputs is missing")?;
        let table = first_constant_in_loop(&find.body).ok_or("the table of inputs is missing")? as usize;
        let mut out = Vec::new();
        let mut total = 0u32;
        for slot in 0..256 {
            let entry = self
                .memory
                .get(table + 16 * slot..table + 16 * slot + 16)
                .ok_or("the table of inputs lies outside the memory")?;
            let word = |i: usize| u32::from_le_bytes([entry[i], entry[i + 1], entry[i + 2], entry[i + 3]]);
            let hash = u64::from(word(0)) | u64::from(word(4)) << 32;
            if hash != 0 {
                out.push((word(8), hash, word(12)));
                total = total.saturating_add(word(12));
            }
        }
        let expected = self.call_export("getInputSize", &[])?;
        if total != expected {
            return Err(format!("the table of inputs has {total} elements, not {expected}"));
        }
        out.sort_unstable();
        Ok(out.into_iter().map(|(_, hash, len)| (hash, len)).collect())
    }

    // Memory.

    fn word(&self, at: u32) -> Result<usize, Reason> {
        if !at.is_multiple_of(4) || at as usize + CELL as usize > self.memory.len() {
            return Err(format!("a field element at address {at}"));
        }
        Ok(at as usize / 4)
    }

    fn set_word(&mut self, word: usize, cell: Cell) {
        if self.cells[word] != cell {
            if let Some(journal) = self.journals.last_mut() {
                journal.push(Undo::Cell(word, self.cells[word]));
            }
            self.cells[word] = cell;
        }
    }

    /// Marks elements that begin at one of `words` as overwritten.
    fn spoil(&mut self, words: std::ops::Range<usize>) {
        for word in words {
            if matches!(self.cells[word], Cell::Node(_)) {
                self.set_word(word, Cell::Spoilt);
            }
        }
    }

    fn set_cell(&mut self, at: u32, node: Id) -> Result<(), Reason> {
        let word = self.word(at)?;
        self.spoil(word.saturating_sub(CELL_WORDS - 1)..word);
        self.spoil(word + 1..(word + CELL_WORDS).min(self.cells.len()));
        self.set_word(word, Cell::Node(node));
        Ok(())
    }

    fn cell(&mut self, at: u32) -> Result<Id, Reason> {
        let word = self.word(at)?;
        match self.cells[word] {
            Cell::Node(id) => Ok(id),
            Cell::Spoilt => Err(format!("the field element at address {at} was overwritten in part")),
            Cell::Raw => {
                if let Some(id) = self.decoded[word] {
                    return Ok(id);
                }
                let x = decode(&self.memory[at as usize..at as usize + CELL as usize])
                    .ok_or_else(|| format!("the constant at address {at} is not canonical"))?;
                let id = self.builder.constant(x);
                self.decoded[word] = Some(id);
                Ok(id)
            }
        }
    }

    fn range(&self, at: u32, offset: u32, len: usize) -> Result<std::ops::Range<usize>, Reason> {
        let start = at as usize + offset as usize;
        if start + len > self.memory.len() {
            return Err(format!("access outside the memory at {start}"));
        }
        Ok(start..start + len)
    }

    /// Words where an element that covers one of `bytes` may begin.
    fn cells_over(&self, bytes: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        (bytes.start / 4).saturating_sub(CELL_WORDS - 1)..bytes.end.div_ceil(4)
    }

    fn load(&self, opcode: u8, at: u32, offset: u32) -> Result<Value, Reason> {
        let len = match opcode {
            0x28 | 0x34 | 0x35 => 4,
            0x29 => 8,
            0x2c | 0x2d | 0x30 | 0x31 => 1,
            _ => 2,
        };
        let range = self.range(at, offset, len)?;
        if self.cells[self.cells_over(&range)].iter().any(|c| matches!(c, Cell::Node(_))) {
            return Err(format!("a field element is read as an integer at {}", range.start));
        }
        let raw = self.memory[range].iter().rev().fold(0u64, |acc, b| acc << 8 | u64::from(*b));
        let bits = 8 * len as u32;
        let signed = matches!(opcode, 0x2c | 0x2e | 0x30 | 0x32 | 0x34);
        let x = if signed { ((raw << (64 - bits)) as i64 >> (64 - bits)) as u64 } else { raw };
        Ok(match opcode {
            0x28 | 0x2c..=0x2f => Value::I32(x as u32),
            _ => Value::I64(x),
        })
    }

    fn store(&mut self, opcode: u8, at: u32, offset: u32, value: Value) -> Result<(), Reason> {
        let (len, x) = match (opcode, value) {
            (0x36, Value::I32(x)) => (4, u64::from(x)),
            (0x37, Value::I64(x)) => (8, x),
            (0x3a, Value::I32(x)) => (1, u64::from(x)),
            (0x3b, Value::I32(x)) => (2, u64::from(x)),
            (0x3c, Value::I64(x)) => (1, x),
            (0x3d, Value::I64(x)) => (2, x),
            (0x3e, Value::I64(x)) => (4, x),
            (_, v) => return Err(format!("{v:?} is stored as an integer")),
        };
        let range = self.range(at, offset, len)?;
        let over = self.cells_over(&range);
        self.decoded[over.clone()].fill(None);
        self.spoil(over);
        for (i, place) in range.enumerate() {
            let byte = (x >> (8 * i)) as u8;
            if self.memory[place] != byte {
                if let Some(journal) = self.journals.last_mut() {
                    journal.push(Undo::Byte(place, self.memory[place]));
                }
                self.memory[place] = byte;
            }
        }
        Ok(())
    }

    // Control.

    fn call(&mut self, index: u32, caller: &mut Frame) -> Result<Flow, Reason> {
        let module = self.module;
        let f = module.functions.get(index as usize).ok_or_else(|| format!("function {index} is missing"))?;
        match self.roles[index as usize] {
            Role::Plain | Role::SetInput => {}
            role => return self.intrinsic(role, f, caller),
        }
        let Some(code) = &f.code else {
            return Err(format!("import {} is called", f.name));
        };
        if self.depth >= MAX_DEPTH {
            return Err("calls are nested too deeply".into());
        }
        let at = caller.stack.len().checked_sub(f.kind.params).ok_or("the stack is empty")?;
        let mut locals = caller.stack.split_off(at);
        // Locals are zero at first; those of 64 bits are always set before they are read in circom's programs, and a wrong type
        // would be noticed.
        locals.resize(f.kind.params + code.locals, Value::I32(0));
        let mut frame = Frame { function: index, locals, stack: Vec::new() };
        let outer = self.setting_input;
        // Only setInputSignal itself looks at an input's form; what it calls computes with it.
        self.setting_input = self.roles[index as usize] == Role::SetInput;
        self.depth += 1;
        let flow = self.run(&code.body, &mut frame)?;
        self.depth -= 1;
        self.setting_input = outer;
        if flow == Flow::Fail {
            return Ok(Flow::Fail);
        }
        if f.kind.results == 1 {
            caller.stack.push(frame.pop()?);
        }
        Ok(Flow::Next)
    }

    fn intrinsic(&mut self, role: Role, f: &Function, frame: &mut Frame) -> Result<Flow, Reason> {
        match role {
            Role::Operator(operator) => {
                let b = if operator.unary() { None } else { Some(frame.pop_u32()?) };
                let (a, to) = (frame.pop_u32()?, frame.pop_u32()?);
                let a = self.cell(a)?;
                let b = match b {
                    Some(b) => self.cell(b)?,
                    None => a,
                };
                let out = self.builder.apply(operator, a, b);
                self.set_cell(to, out)?;
            }
            Role::Copy => {
                let (from, to) = (frame.pop_u32()?, frame.pop_u32()?);
                let x = self.cell(from)?;
                self.set_cell(to, x)?;
            }
            Role::CopyMany => {
                let (n, from, to) = (frame.pop_u32()?, frame.pop_u32()?, frame.pop_u32()?);
                for i in 0..n {
                    let step = i.checked_mul(CELL).ok_or("a copy is too long")?;
                    let x = self.cell(from.checked_add(step).ok_or("a copy is too long")?)?;
                    self.set_cell(to.checked_add(step).ok_or("a copy is too long")?, x)?;
                }
            }
            Role::IsTrue => {
                let at = frame.pop_u32()?;
                let node = self.cell(at)?;
                frame.stack.push(match self.builder.as_constant(node) {
                    Some(x) => Value::I32(u32::from(!x.is_zero())),
                    None => Value::Truth { node, negated: false },
                });
            }
            Role::ToInt => {
                let at = frame.pop_u32()?;
                let node = self.cell(at)?;
                let x = match self.builder.as_constant(node) {
                    Some(x) => field::to_int(x).ok_or("an index is too large")?,
                    // setInputSignal tries the short form first; the value then comes by Fr_copy.
                    None if self.setting_input => 0,
                    None => return Err("an index depends on an input".into()),
                };
                frame.stack.push(Value::I32(x as u32));
            }
            Role::EqualRaw => {
                let (b, a) = (frame.pop_u32()?, frame.pop_u32()?);
                let equal = if self.setting_input {
                    false
                } else {
                    let (a, b) = (self.cell(a)?, self.cell(b)?);
                    match (self.builder.as_constant(a), self.builder.as_constant(b)) {
                        (Some(a), Some(b)) => a == b,
                        _ => return Err("a raw comparison depends on an input".into()),
                    }
                };
                frame.stack.push(Value::I32(u32::from(equal)));
            }
            Role::ToLong => drop(frame.pop_u32()?),
            Role::Message => {
                let (line, _template) = (frame.pop_u32()?, frame.pop_u32()?);
                // The innermost message comes first.
                if self.message.is_none() {
                    let name = &self.module.functions[frame.function as usize].name;
                    self.message = Some((template_name(name), line));
                }
            }
            Role::Fail => {
                frame.pop()?;
                return Ok(Flow::Fail);
            }
            Role::Ignore => {
                let at = frame.stack.len().checked_sub(f.kind.params).ok_or("the stack is empty")?;
                frame.stack.truncate(at);
                if f.kind.results > 0 {
                    return Err(format!("import {} has a result", f.name));
                }
            }
            Role::Plain | Role::SetInput => unreachable!("these are run, not replaced"),
        }
        Ok(Flow::Next)
    }

    fn run(&mut self, body: &[Op], frame: &mut Frame) -> Result<Flow, Reason> {
        if self.nesting >= MAX_NESTING {
            return Err("blocks and calls are nested too deeply".into());
        }
        self.nesting += 1;
        let mut flow = Flow::Next;
        for op in body {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err("it runs too long".into());
            }
            flow = self.step(op, frame)?;
            if flow != Flow::Next {
                break;
            }
        }
        self.nesting -= 1;
        Ok(flow)
    }

    fn step(&mut self, op: &Op, frame: &mut Frame) -> Result<Flow, Reason> {
        match op {
            Op::I32(x) => frame.stack.push(Value::I32(*x)),
            Op::I64(x) => frame.stack.push(Value::I64(*x)),
            Op::Get(i) => {
                let v = *frame.local(*i)?;
                frame.stack.push(v);
            }
            Op::Set(i) => {
                let v = frame.pop()?;
                *frame.local(*i)? = v;
            }
            Op::Tee(i) => {
                let v = frame.pop()?;
                frame.stack.push(v);
                *frame.local(*i)? = v;
            }
            Op::Load(opcode, offset) => {
                let at = frame.pop_u32()?;
                let v = self.load(*opcode, at, *offset)?;
                frame.stack.push(v);
            }
            Op::Store(opcode, offset) => {
                let v = frame.pop()?;
                let at = frame.pop_u32()?;
                self.store(*opcode, at, *offset, v)?;
            }
            Op::Num(opcode) => numeric(*opcode, frame)?,
            Op::Call(f) => return self.call(*f, frame),
            Op::CallIndirect => {
                let slot = frame.pop_u32()? as usize;
                let f = *self.module.table.get(slot).ok_or_else(|| format!("table slot {slot} is missing"))?;
                return self.call(f, frame);
            }
            Op::Block(body) => match self.run(body, frame)? {
                Flow::Branch(0) => {}
                Flow::Branch(n) => return Ok(Flow::Branch(n - 1)),
                flow => return Ok(flow),
            },
            Op::Loop(body) => loop {
                match self.run(body, frame)? {
                    Flow::Branch(0) => {}
                    Flow::Branch(n) => return Ok(Flow::Branch(n - 1)),
                    flow => return Ok(flow),
                }
            },
            Op::If(then, otherwise) => {
                let flow = match frame.pop()? {
                    Value::I32(c) => self.run(if c == 0 { otherwise } else { then }, frame)?,
                    Value::Truth { node, negated } => {
                        let (then, otherwise) = if negated { (otherwise, then) } else { (then, otherwise) };
                        self.fork(node, then, otherwise, frame)?
                    }
                    v => return Err(format!("a branch depends on {v:?}")),
                };
                match flow {
                    Flow::Branch(0) => {}
                    Flow::Branch(n) => return Ok(Flow::Branch(n - 1)),
                    flow => return Ok(flow),
                }
            }
            Op::Br(n) => return Ok(Flow::Branch(*n)),
            Op::BrIf(n) => match frame.pop()? {
                Value::I32(0) => {}
                Value::I32(_) => return Ok(Flow::Branch(*n)),
                v => return Err(format!("a loop's length depends on an input: {v:?}")),
            },
            Op::Return => return Ok(Flow::Return),
            Op::Drop => drop(frame.pop()?),
            Op::MemorySize => frame.stack.push(Value::I32((self.memory.len() / PAGE) as u32)),
            Op::MemoryGrow => {
                let old = self.memory.len() / PAGE;
                let new = old + frame.pop_u32()? as usize;
                if new > MAX_PAGES {
                    return Err(format!("it wants {new} pages of memory"));
                }
                self.memory.resize(new * PAGE, 0);
                self.cells.resize(new * PAGE / 4, Cell::Raw);
                self.decoded.resize(new * PAGE / 4, None);
                frame.stack.push(Value::I32(old as u32));
            }
            Op::Unreachable => return Ok(Flow::Fail),
        }
        Ok(Flow::Next)
    }

    // Branches on inputs.

    /// Runs `then` for where `condition` isn't zero and `otherwise` for where it is.
    fn fork(&mut self, condition: Id, then: &[Op], otherwise: &[Op], frame: &mut Frame) -> Result<Flow, Reason> {
        let mut first = self.attempt(condition, true, then, frame)?;
        let mut second = self.attempt(condition, false, otherwise, frame)?;
        match (first.error.take(), second.error.take()) {
            (Some(_), Some(_)) => Err("both branches of a condition fail".into()),
            (Some(message), None) => {
                self.assert(condition, false, message);
                self.commit(second, frame)
            }
            (None, Some(message)) => {
                self.assert(condition, true, message);
                self.commit(first, frame)
            }
            (None, None) => self.merge(condition, first, second, frame),
        }
    }

    /// Runs one branch and undoes what it did.
    fn attempt(&mut self, condition: Id, holds: bool, body: &[Op], frame: &Frame) -> Result<Attempt, Reason> {
        let mut branch = Frame { function: frame.function, locals: frame.locals.clone(), stack: frame.stack.clone() };
        self.journals.push(Vec::new());
        self.path.push((condition, holds));
        let outer_message = self.message.take();
        let assertions = self.builder.assertions.len();
        let flow = self.run(body, &mut branch)?;
        let message = std::mem::replace(&mut self.message, outer_message);
        self.path.pop();
        let journal = self.journals.pop().unwrap_or_default();

        let failed = match flow {
            Flow::Fail => true,
            // The run functions return a code, 0 for success.
            Flow::Return => matches!(branch.stack.last(), Some(Value::I32(code)) if *code != 0),
            _ => false,
        };
        let mut attempt = Attempt { flow, error: None, cells: BTreeMap::new(), bytes: BTreeMap::new(), frame: branch };
        for undo in &journal {
            match *undo {
                Undo::Cell(word, _) => drop(attempt.cells.insert(word, self.cells[word])),
                Undo::Byte(at, _) => drop(attempt.bytes.insert(at, self.memory[at])),
            }
        }
        for undo in journal.into_iter().rev() {
            match undo {
                Undo::Cell(word, cell) => self.cells[word] = cell,
                Undo::Byte(at, byte) => {
                    self.memory[at] = byte;
                    self.forget(at);
                }
            }
        }
        if failed {
            // What was asserted on the way to an error doesn't matter.
            self.builder.assertions.truncate(assertions);
            attempt.error = Some(message.unwrap_or_else(|| {
                let name = &self.module.functions[frame.function as usize].name;
                (template_name(name), 0)
            }));
        }
        Ok(attempt)
    }

    /// The inputs are refused unless `condition` is as it `must` be, or this place isn't reached.
    fn assert(&mut self, condition: Id, must: bool, (template, line): (String, u32)) {
        let literal = |b: &mut Builder, id: Id, holds: bool| {
            if holds { id } else { b.apply(Operator::LogicNot, id, id) }
        };
        let mut node = literal(&mut self.builder, condition, must);
        for (reached, holds) in self.path.clone().into_iter().rev() {
            let unreached = literal(&mut self.builder, reached, !holds);
            node = self.builder.apply(Operator::LogicOr, unreached, node);
        }
        self.builder.assertions.push(Assertion { condition: node, template, line });
    }

    /// Redoes what a branch did.
    fn commit(&mut self, attempt: Attempt, frame: &mut Frame) -> Result<Flow, Reason> {
        for (word, cell) in attempt.cells {
            self.set_word(word, cell);
        }
        for (at, byte) in attempt.bytes {
            self.set_byte(at, byte);
        }
        frame.locals = attempt.frame.locals;
        frame.stack = attempt.frame.stack;
        Ok(attempt.flow)
    }

    fn set_byte(&mut self, at: usize, byte: u8) {
        if self.memory[at] != byte {
            if let Some(journal) = self.journals.last_mut() {
                journal.push(Undo::Byte(at, self.memory[at]));
            }
            self.memory[at] = byte;
            self.forget(at);
        }
    }

    fn forget(&mut self, at: usize) {
        let over = self.cells_over(&(at..at + 1));
        self.decoded[over].fill(None);
    }

    fn merge(&mut self, condition: Id, a: Attempt, b: Attempt, frame: &mut Frame) -> Result<Flow, Reason> {
        if a.flow != b.flow || matches!(a.flow, Flow::Return) {
            return Err("control flow depends on an input".into());
        }
        let bytes: Vec<usize> = a.bytes.keys().chain(b.bytes.keys()).copied().collect();
        for at in bytes {
            let old = self.memory[at];
            let (x, y) = (*a.bytes.get(&at).unwrap_or(&old), *b.bytes.get(&at).unwrap_or(&old));
            if x != y {
                return Err(format!("the integer at {at} depends on an input"));
            }
            self.set_byte(at, x);
        }
        let words: Vec<usize> = a.cells.keys().chain(b.cells.keys()).copied().collect();
        for word in words {
            let old = self.cells[word];
            let (x, y) = (*a.cells.get(&word).unwrap_or(&old), *b.cells.get(&word).unwrap_or(&old));
            let merged = if x == y {
                x
            } else {
                match (self.resolve(word, x)?, self.resolve(word, y)?) {
                    (Some(x), Some(y)) => Cell::Node(self.builder.select(condition, x, y)),
                    _ => Cell::Spoilt,
                }
            };
            self.set_word(word, merged);
        }
        if a.frame.stack.len() != b.frame.stack.len() {
            return Err("the stack depends on an input".into());
        }
        let unify = |x: Vec<Value>, y: Vec<Value>| -> Vec<Value> {
            x.into_iter().zip(y).map(|(x, y)| if x == y { x } else { Value::Unknown }).collect()
        };
        frame.locals = unify(a.frame.locals, b.frame.locals);
        frame.stack = unify(a.frame.stack, b.frame.stack);
        Ok(a.flow)
    }

    fn resolve(&mut self, word: usize, cell: Cell) -> Result<Option<Id>, Reason> {
        Ok(match cell {
            Cell::Node(id) => Some(id),
            Cell::Spoilt => None,
            // Never written: a constant, or zero.
            Cell::Raw => {
                let at = word * 4;
                self.memory.get(at..at + CELL as usize).and_then(decode).map(|x| self.builder.constant(x))
            }
        })
    }
}

/// What a branch did.
struct Attempt {
    flow: Flow,
    /// Template and line, when it ended in an error.
    error: Option<(String, u32)>,
    cells: BTreeMap<usize, Cell>,
    bytes: BTreeMap<usize, u8>,
    frame: Frame,
}

/// The field element that 40 bytes hold: a short signed value, or a long one, in Montgomery form or not.
fn decode(bytes: &[u8]) -> Option<Fr> {
    let flags = bytes[7];
    if flags & 0x80 == 0 {
        let short = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let magnitude = Fr::from(short.unsigned_abs());
        return Some(if short < 0 { -magnitude } else { magnitude });
    }
    let x = raw::read_fr_plain(&bytes[8..40])?;
    Some(if flags & 0x40 == 0 { x } else { x * montgomery_inverse() })
}

fn montgomery_inverse() -> Fr {
    Fr::from(2u64).pow([256]).inverse().unwrap_or(Fr::one())
}

fn template_name(function: &str) -> String {
    let name = function.strip_suffix("_run").unwrap_or(function);
    match name.rsplit_once('_') {
        Some((name, number)) if number.bytes().all(|b| b.is_ascii_digit()) => name.to_owned(),
        _ => name.to_owned(),
    }
}

fn first_constant_in_loop(body: &[Op]) -> Option<u32> {
    body.iter().find_map(|op| match op {
        Op::Loop(inner) => inner.iter().find_map(|op| match op {
            Op::I32(x) => Some(*x),
            _ => None,
        }),
        Op::Block(inner) => first_constant_in_loop(inner),
        _ => None,
    })
}

fn numeric(opcode: u8, frame: &mut Frame) -> Result<(), Reason> {
    let unknown = || format!("numeric instruction 0x{opcode:02x} on these operands");
    let top = frame.pop()?;
    let result = match (opcode, top) {
        (0x45, Value::I32(x)) => Value::I32(u32::from(x == 0)),
        (0x45, Value::Truth { node, negated }) => Value::Truth { node, negated: !negated },
        (0x50, Value::I64(x)) => Value::I32(u32::from(x == 0)),
        (0x67, Value::I32(x)) => Value::I32(x.leading_zeros()),
        (0x68, Value::I32(x)) => Value::I32(x.trailing_zeros()),
        (0x79, Value::I64(x)) => Value::I64(u64::from(x.leading_zeros())),
        (0x7a, Value::I64(x)) => Value::I64(u64::from(x.trailing_zeros())),
        (0xa7, Value::I64(x)) => Value::I32(x as u32),
        (0xac, Value::I32(x)) => Value::I64(i64::from(x as i32) as u64),
        (0xad, Value::I32(x)) => Value::I64(u64::from(x)),
        (_, Value::I32(y)) => {
            let Value::I32(x) = frame.pop()? else {
                return Err(unknown());
            };
            Value::I32(numeric_32(opcode, x, y).ok_or_else(unknown)?)
        }
        (_, Value::I64(y)) => {
            let Value::I64(x) = frame.pop()? else {
                return Err(unknown());
            };
            numeric_64(opcode, x, y).ok_or_else(unknown)?
        }
        _ => return Err(unknown()),
    };
    frame.stack.push(result);
    Ok(())
}

fn numeric_32(opcode: u8, x: u32, y: u32) -> Option<u32> {
    let (sx, sy) = (x as i32, y as i32);
    Some(match opcode {
        0x46 => u32::from(x == y),
        0x47 => u32::from(x != y),
        0x48 => u32::from(sx < sy),
        0x49 => u32::from(x < y),
        0x4a => u32::from(sx > sy),
        0x4b => u32::from(x > y),
        0x4c => u32::from(sx <= sy),
        0x4d => u32::from(x <= y),
        0x4e => u32::from(sx >= sy),
        0x4f => u32::from(x >= y),
        0x6a => x.wrapping_add(y),
        0x6b => x.wrapping_sub(y),
        0x6c => x.wrapping_mul(y),
        0x6d => sx.checked_div(sy)? as u32,
        0x6e => x.checked_div(y)?,
        0x6f => sx.checked_rem(sy)? as u32,
        0x70 => x.checked_rem(y)?,
        0x71 => x & y,
        0x72 => x | y,
        0x73 => x ^ y,
        0x74 => x << (y & 31),
        0x75 => (sx >> (y & 31)) as u32,
        0x76 => x >> (y & 31),
        _ => return None,
    })
}

fn numeric_64(opcode: u8, x: u64, y: u64) -> Option<Value> {
    let (sx, sy) = (x as i64, y as i64);
    let truth = |b: bool| Value::I32(u32::from(b));
    Some(match opcode {
        0x51 => truth(x == y),
        0x52 => truth(x != y),
        0x53 => truth(sx < sy),
        0x54 => truth(x < y),
        0x55 => truth(sx > sy),
        0x56 => truth(x > y),
        0x57 => truth(sx <= sy),
        0x58 => truth(x <= y),
        0x59 => truth(sx >= sy),
        0x5a => truth(x >= y),
        0x7c => Value::I64(x.wrapping_add(y)),
        0x7d => Value::I64(x.wrapping_sub(y)),
        0x7e => Value::I64(x.wrapping_mul(y)),
        0x80 => Value::I64(x.checked_div(y)?),
        0x82 => Value::I64(x.checked_rem(y)?),
        0x83 => Value::I64(x & y),
        0x84 => Value::I64(x | y),
        0x85 => Value::I64(x ^ y),
        0x86 => Value::I64(x << (y & 63)),
        0x87 => Value::I64((sx >> (y & 63)) as u64),
        0x88 => Value::I64(x >> (y & 63)),
        _ => return None,
    })
}
