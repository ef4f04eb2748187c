//! A witness program as a straight list of field operations.
//!
//! Nothing in it can jump, fail or reach outside its values, so a stored graph is data, not code: a wrong one gives a wrong witness,
//! and the proof made from that doesn't verify.

use std::collections::HashMap;

use ark_bn254::Fr;
use ark_ff::{BigInteger, One, PrimeField, Zero};
use sha2::{Digest, Sha256};

use super::field::{self, Operator};
use crate::raw;

/// Values are numbered: first constants, then inputs, then one for each instruction.
pub(super) type Id = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Instruction {
    Apply(Operator, Id, Id),
    /// Bit of a value.
    Bit(Id, u32),
    /// `if the first isn't zero then the second else the third`.
    Select(Id, Id, Id),
}

/// A place that refuses inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assertion {
    /// Must not be zero.
    pub(super) condition: Id,
    pub(super) template: String,
    pub(super) line: u32,
}

/// An input signal: the first of its elements and how many it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) first: u32,
    pub(super) len: u32,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Graph {
    pub(super) constants: Vec<Fr>,
    /// By FNV-1a of the name.
    pub(super) inputs: HashMap<u64, Input>,
    pub(super) input_count: u32,
    pub(super) instructions: Vec<Instruction>,
    pub(super) assertions: Vec<Assertion>,
    pub(super) witness: Vec<Id>,
}

/// Why a run failed.
pub(super) struct Refused<'a>(pub(super) &'a Assertion);

impl Graph {
    /// Runs the program on all inputs' elements in order.
    pub(super) fn run(&self, inputs: &[Fr]) -> Result<Vec<Fr>, Refused<'_>> {
        let mut values = Vec::with_capacity(self.constants.len() + inputs.len() + self.instructions.len());
        values.extend_from_slice(&self.constants);
        values.extend_from_slice(inputs);
        for i in &self.instructions {
            let at = |id: Id| values[id as usize];
            let value = match *i {
                // The two that make up nearly all of a program.
                Instruction::Apply(Operator::Mul, a, b) => at(a) * at(b),
                Instruction::Apply(Operator::Add, a, b) => at(a) + at(b),
                Instruction::Apply(operator, a, b) => operator.apply(at(a), at(b)),
                Instruction::Bit(a, n) => field::bit(at(a), n),
                Instruction::Select(condition, a, b) => at(if at(condition).is_zero() { b } else { a }),
            };
            values.push(value);
        }
        let refused = self.assertions.iter().find(|a| values[a.condition as usize].is_zero());
        let witness = match refused {
            Some(assertion) => Err(Refused(assertion)),
            None => Ok(self.witness.iter().map(|id| values[*id as usize]).collect()),
        };
        zeroize::Zeroize::zeroize(&mut values);
        witness
    }
}

/// Collects instructions, computing at once what only depends on constants.
#[derive(Default)]
pub(super) struct Builder {
    nodes: Vec<Node>,
    constants: HashMap<Fr, Id>,
    known: HashMap<Instruction, Id>,
    pub(super) inputs: HashMap<u64, Input>,
    input_count: u32,
    pub(super) assertions: Vec<Assertion>,
}

#[derive(Clone, Copy)]
enum Node {
    Constant(Fr),
    Input(u32),
    Instruction(Instruction),
}

impl Builder {
    pub(super) fn constant(&mut self, x: Fr) -> Id {
        *self.constants.entry(x).or_insert_with(|| {
            self.nodes.push(Node::Constant(x));
            self.nodes.len() as Id - 1
        })
    }

    pub(super) fn input(&mut self) -> Id {
        self.nodes.push(Node::Input(self.input_count));
        self.input_count += 1;
        self.nodes.len() as Id - 1
    }

    pub(super) fn input_count(&self) -> u32 {
        self.input_count
    }

    pub(super) fn as_constant(&self, id: Id) -> Option<Fr> {
        match self.nodes[id as usize] {
            Node::Constant(x) => Some(x),
            _ => None,
        }
    }

    fn instruction(&mut self, i: Instruction) -> Id {
        *self.known.entry(i).or_insert_with(|| {
            self.nodes.push(Node::Instruction(i));
            self.nodes.len() as Id - 1
        })
    }

    pub(super) fn apply(&mut self, operator: Operator, a: Id, b: Id) -> Id {
        let (x, y) = (self.as_constant(a), self.as_constant(b));
        if let (Some(x), Some(y)) = (x, y) {
            return self.constant(operator.apply(x, y));
        }
        match (operator, x, y) {
            (Operator::Add, Some(x), _) if x.is_zero() => return b,
            (Operator::Add | Operator::Sub, _, Some(y)) if y.is_zero() => return a,
            (Operator::Mul, Some(x), _) if x.is_zero() => return a,
            (Operator::Mul, _, Some(y)) if y.is_zero() => return b,
            (Operator::Mul, Some(x), _) if x.is_one() => return b,
            (Operator::Mul, _, Some(y)) if y.is_one() => return a,
            // (a >> n) & 1, from which every decomposition into bits is made.
            (Operator::BitAnd, _, Some(y)) if y.is_one() => {
                if let Node::Instruction(Instruction::Apply(Operator::Shr, from, by)) = self.nodes[a as usize]
                    && let Some(n) = self.as_constant(by).and_then(small)
                {
                    return self.instruction(Instruction::Bit(from, n));
                }
            }
            _ => {}
        }
        self.instruction(Instruction::Apply(operator, a, b))
    }

    pub(super) fn select(&mut self, condition: Id, a: Id, b: Id) -> Id {
        if a == b {
            return a;
        }
        self.instruction(Instruction::Select(condition, a, b))
    }

    /// The graph of what `witness` and the assertions need.
    pub(super) fn finish(self, witness: &[Id]) -> Graph {
        let mut needed = vec![false; self.nodes.len()];
        for id in witness.iter().chain(self.assertions.iter().map(|a| &a.condition)) {
            needed[*id as usize] = true;
        }
        // Operands come before what uses them.
        for id in (0..self.nodes.len()).rev() {
            if needed[id]
                && let Node::Instruction(i) = self.nodes[id]
            {
                for operand in operands(i).into_iter().flatten() {
                    needed[operand as usize] = true;
                }
            }
        }
        let mut graph = Graph { inputs: self.inputs, input_count: self.input_count, ..Graph::default() };
        let mut place = vec![Id::MAX; self.nodes.len()];
        for (id, node) in self.nodes.iter().enumerate() {
            if let (Node::Constant(x), true) = (node, needed[id]) {
                place[id] = graph.constants.len() as Id;
                graph.constants.push(*x);
            }
        }
        let first_input = graph.constants.len() as Id;
        let mut next = first_input + self.input_count;
        for (id, node) in self.nodes.iter().enumerate() {
            match *node {
                Node::Input(n) => place[id] = first_input + n,
                Node::Instruction(i) if needed[id] => {
                    let at = |id: Id| place[id as usize];
                    graph.instructions.push(match i {
                        Instruction::Apply(operator, a, b) => Instruction::Apply(operator, at(a), at(b)),
                        Instruction::Bit(a, n) => Instruction::Bit(at(a), n),
                        Instruction::Select(c, a, b) => Instruction::Select(at(c), at(a), at(b)),
                    });
                    place[id] = next;
                    next += 1;
                }
                _ => {}
            }
        }
        graph.witness = witness.iter().map(|id| place[*id as usize]).collect();
        graph.assertions =
            self.assertions.into_iter().map(|a| Assertion { condition: place[a.condition as usize], ..a }).collect();
        graph
    }
}

fn operands(i: Instruction) -> [Option<Id>; 3] {
    match i {
        Instruction::Apply(_, a, b) => [Some(a), Some(b), None],
        Instruction::Bit(a, _) => [Some(a), None, None],
        Instruction::Select(c, a, b) => [Some(c), Some(a), Some(b)],
    }
}

fn small(x: Fr) -> Option<u32> {
    let x = x.into_bigint();
    (x.num_bits() <= 8).then_some(x.0[0] as u32)
}

const MAGIC: &[u8; 8] = b"TRBGRAF1";
const BIT: u8 = 64;
const SELECT: u8 = 65;

impl Graph {
    /// The stored form: magic, hash of the program it was made from, content, and the hash of all that.
    pub(super) fn to_bytes(&self, program: &[u8; 32]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(program);
        let u32s = |out: &mut Vec<u8>, values: &[u32]| {
            for v in values {
                out.extend_from_slice(&v.to_le_bytes());
            }
        };
        u32s(
            &mut out,
            &[
                self.constants.len() as u32,
                self.input_count,
                self.inputs.len() as u32,
                self.instructions.len() as u32,
                self.assertions.len() as u32,
                self.witness.len() as u32,
            ],
        );
        for x in &self.constants {
            out.extend_from_slice(&raw::limb_bytes(&x.into_bigint()));
        }
        let mut inputs: Vec<_> = self.inputs.iter().collect();
        inputs.sort_by_key(|(_, input)| input.first);
        for (hash, input) in inputs {
            out.extend_from_slice(&hash.to_le_bytes());
            u32s(&mut out, &[input.first, input.len]);
        }
        for i in &self.instructions {
            let (code, words) = match *i {
                Instruction::Apply(operator, a, b) => (operator as u8, [a, b, 0]),
                Instruction::Bit(a, n) => (BIT, [a, n, 0]),
                Instruction::Select(c, a, b) => (SELECT, [c, a, b]),
            };
            out.push(code);
            u32s(&mut out, &words);
        }
        for a in &self.assertions {
            u32s(&mut out, &[a.condition, a.line, a.template.len() as u32]);
            out.extend_from_slice(a.template.as_bytes());
        }
        u32s(&mut out, &self.witness);
        let hash = Sha256::digest(&out);
        out.extend_from_slice(&hash);
        out
    }

    /// Reads [`Self::to_bytes`]' form; `None` unless it is whole, of this program, and refers to nothing outside itself.
    pub(super) fn from_bytes(bytes: &[u8], program: &[u8; 32]) -> Option<Self> {
        let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
        if Sha256::digest(body).as_slice() != hash {
            return None;
        }
        let mut r = Reader(body);
        if r.take(8)? != MAGIC || r.take(32)? != program {
            return None;
        }
        let [constants, input_count, inputs, instructions, assertions, witness] =
            [r.u32()?, r.u32()?, r.u32()?, r.u32()?, r.u32()?, r.u32()?];
        let mut graph = Self { input_count, ..Self::default() };
        for _ in 0..constants {
            graph.constants.push(raw::read_fr_plain(r.take(32)?)?);
        }
        for _ in 0..inputs {
            let hash = u64::from(r.u32()?) | u64::from(r.u32()?) << 32;
            let input = Input { first: r.u32()?, len: r.u32()? };
            if input.first.checked_add(input.len)? > input_count {
                return None;
            }
            graph.inputs.insert(hash, input);
        }
        let mut next = constants.checked_add(input_count)?;
        for _ in 0..instructions {
            let code = r.take(1)?[0];
            let words = [r.u32()?, r.u32()?, r.u32()?];
            let i = match code {
                BIT => Instruction::Bit(words[0], words[1]),
                SELECT => Instruction::Select(words[0], words[1], words[2]),
                code => Instruction::Apply(*Operator::ALL.get(code as usize)?, words[0], words[1]),
            };
            if operands(i).into_iter().flatten().any(|id| id >= next) {
                return None;
            }
            graph.instructions.push(i);
            next = next.checked_add(1)?;
        }
        for _ in 0..assertions {
            let (condition, line, len) = (r.u32()?, r.u32()?, r.u32()?);
            let template = String::from_utf8(r.take(len as usize)?.to_vec()).ok()?;
            graph.assertions.push(Assertion { condition, template, line });
        }
        for _ in 0..witness {
            graph.witness.push(r.u32()?);
        }
        let conditions = graph.assertions.iter().map(|a| &a.condition);
        if !r.0.is_empty() || graph.witness.iter().chain(conditions).any(|id| *id >= next) {
            return None;
        }
        Some(graph)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (out, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(out)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
}
