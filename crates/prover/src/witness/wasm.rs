//! Reads the subset of WebAssembly that circom's compiler emits for witness programs: one memory, integers, structured control.

use std::collections::HashMap;

/// An instruction; blocks hold their bodies.
#[derive(Clone, Debug)]
pub(super) enum Op {
    I32(u32),
    I64(u64),
    Get(u32),
    Set(u32),
    Tee(u32),
    /// Opcode and constant offset.
    Load(u8, u32),
    Store(u8, u32),
    /// Comparisons, arithmetic and conversions, by opcode.
    Num(u8),
    Call(u32),
    CallIndirect,
    Block(Vec<Op>),
    Loop(Vec<Op>),
    If(Vec<Op>, Vec<Op>),
    Br(u32),
    BrIf(u32),
    Return,
    Drop,
    MemorySize,
    MemoryGrow,
    Unreachable,
}

#[derive(Clone, Debug, Default)]
pub(super) struct FuncType {
    pub(super) params: usize,
    pub(super) results: usize,
}

#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) kind: FuncType,
    /// `None` for an import.
    pub(super) code: Option<Code>,
}

#[derive(Debug)]
pub(super) struct Code {
    /// Locals beyond the parameters.
    pub(super) locals: usize,
    pub(super) body: Vec<Op>,
}

#[derive(Debug, Default)]
pub(super) struct Module {
    pub(super) functions: Vec<Function>,
    pub(super) table: Vec<u32>,
    pub(super) memory_pages: u32,
    /// Address and content.
    pub(super) data: Vec<(u32, Vec<u8>)>,
    pub(super) exports: HashMap<String, u32>,
}

/// What a parser found that it doesn't know.
pub(super) type Reason = String;

const MAX_NESTING: usize = 64;
const MAX_LOCALS: usize = 1 << 12;
const MAX_TABLE: usize = 1 << 16;

impl Module {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Reason> {
        let mut r = Reader { bytes, at: 0 };
        if r.take(8)? != b"\0asm\x01\0\0\0" {
            return Err("it is no WebAssembly module of version 1".into());
        }
        let mut module = Self::default();
        let mut types = Vec::new();
        let mut declared = Vec::new();
        let mut imports = 0;
        while r.at < bytes.len() {
            let id = r.byte()?;
            let len = r.u32()? as usize;
            let mut s = Reader { bytes: r.take(len)?, at: 0 };
            match id {
                0 if s.name()? == "name" => module.names(&mut s)?,
                1 => {
                    for _ in 0..s.u32()? {
                        types.push(s.func_type()?);
                    }
                }
                2 => {
                    for _ in 0..s.u32()? {
                        let (_, name) = (s.name()?, s.name()?);
                        if s.byte()? != 0 {
                            return Err(format!("import {name} is no function"));
                        }
                        let kind = type_at(&types, s.u32()?)?;
                        module.functions.push(Function { name, kind, code: None });
                        imports += 1;
                    }
                }
                3 => {
                    for _ in 0..s.u32()? {
                        declared.push(type_at(&types, s.u32()?)?);
                    }
                }
                5 => {
                    if s.u32()? != 1 {
                        return Err("it has not exactly one memory".into());
                    }
                    let _limits = s.byte()?;
                    module.memory_pages = s.u32()?;
                }
                7 => {
                    for _ in 0..s.u32()? {
                        let name = s.name()?;
                        let (kind, index) = (s.byte()?, s.u32()?);
                        if kind == 0 {
                            module.exports.insert(name, index);
                        }
                    }
                }
                9 => {
                    for _ in 0..s.u32()? {
                        if s.u32()? != 0 {
                            return Err("an element segment of a kind not known".into());
                        }
                        let offset = s.const_offset()? as usize;
                        for i in 0..s.u32()? as usize {
                            let at = offset + i;
                            if at >= MAX_TABLE {
                                return Err("the function table is too large".into());
                            }
                            if module.table.len() <= at {
                                module.table.resize(at + 1, u32::MAX);
                            }
                            module.table[at] = s.u32()?;
                        }
                    }
                }
                10 => {
                    if s.u32()? as usize != declared.len() {
                        return Err("functions and their bodies differ in number".into());
                    }
                    for kind in &declared {
                        let len = s.u32()? as usize;
                        let mut body = Reader { bytes: s.take(len)?, at: 0 };
                        let code = body.code()?;
                        module.functions.push(Function { name: String::new(), kind: kind.clone(), code: Some(code) });
                    }
                }
                11 => {
                    for _ in 0..s.u32()? {
                        if s.u32()? != 0 {
                            return Err("a data segment of a kind not known".into());
                        }
                        let offset = s.const_offset()?;
                        let len = s.u32()? as usize;
                        module.data.push((offset, s.take(len)?.to_vec()));
                    }
                }
                // Tables' and data's counts say nothing new, and other custom sections don't matter.
                0 | 4 | 12 => {}
                _ => return Err(format!("section {id} is not known")),
            }
        }
        if module.functions.len() != imports + declared.len() {
            return Err("a function has no body".into());
        }
        Ok(module)
    }

    /// The subsection with the functions' names; without it nothing says which functions are the field's.
    fn names(&mut self, s: &mut Reader<'_>) -> Result<(), Reason> {
        while s.at < s.bytes.len() {
            let id = s.byte()?;
            let len = s.u32()? as usize;
            let mut sub = Reader { bytes: s.take(len)?, at: 0 };
            if id == 1 {
                for _ in 0..sub.u32()? {
                    let (index, name) = (sub.u32()? as usize, sub.name()?);
                    if let Some(f) = self.functions.get_mut(index) {
                        f.name = name;
                    }
                }
            }
        }
        Ok(())
    }
}

fn type_at(types: &[FuncType], index: u32) -> Result<FuncType, Reason> {
    types.get(index as usize).cloned().ok_or_else(|| format!("type {index} is missing"))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// How a sequence of instructions ended.
enum End {
    End,
    Else,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Reason> {
        let out = self
            .at
            .checked_add(n)
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or_else(|| "it ends too early".to_owned())?;
        self.at += n;
        Ok(out)
    }

    fn byte(&mut self) -> Result<u8, Reason> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Reason> {
        let mut out = 0u64;
        for shift in (0..35).step_by(7) {
            let b = self.byte()?;
            out |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return u32::try_from(out).map_err(|_| "a number is too large".to_owned());
            }
        }
        Err("a number is too long".into())
    }

    fn signed(&mut self) -> Result<i64, Reason> {
        let (mut out, mut shift) = (0i64, 0);
        while shift < 70 {
            let b = self.byte()?;
            if shift < 64 {
                out |= i64::from(b & 0x7f) << shift;
            }
            shift += 7;
            if b & 0x80 == 0 {
                if shift < 64 && b & 0x40 != 0 {
                    out |= -1 << shift;
                }
                return Ok(out);
            }
        }
        Err("a number is too long".into())
    }

    fn name(&mut self) -> Result<String, Reason> {
        let len = self.u32()? as usize;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| "a name is not UTF-8".into())
    }

    fn func_type(&mut self) -> Result<FuncType, Reason> {
        if self.byte()? != 0x60 {
            return Err("a type is no function type".into());
        }
        let params = self.u32()? as usize;
        self.take(params)?;
        let results = self.u32()? as usize;
        self.take(results)?;
        if results > 1 {
            return Err("a function has several results".into());
        }
        Ok(FuncType { params, results })
    }

    fn const_offset(&mut self) -> Result<u32, Reason> {
        if self.byte()? != 0x41 {
            return Err("a segment's place is not constant".into());
        }
        let out = self.signed()? as u32;
        if self.byte()? != 0x0b {
            return Err("a segment's place is not constant".into());
        }
        Ok(out)
    }

    fn code(&mut self) -> Result<Code, Reason> {
        let mut locals = 0;
        for _ in 0..self.u32()? {
            locals += self.u32()? as usize;
            self.byte()?;
            if locals > MAX_LOCALS {
                return Err("a function has too many locals".into());
            }
        }
        let (body, end) = self.body(0)?;
        match end {
            End::End if self.at == self.bytes.len() => Ok(Code { locals, body }),
            _ => Err("a function's body doesn't end where it should".into()),
        }
    }

    fn body(&mut self, depth: usize) -> Result<(Vec<Op>, End), Reason> {
        if depth > MAX_NESTING {
            return Err("blocks are nested too deeply".into());
        }
        let mut out = Vec::new();
        loop {
            let opcode = self.byte()?;
            out.push(match opcode {
                0x00 => Op::Unreachable,
                0x01 => continue,
                0x02..=0x04 => {
                    if self.byte()? != 0x40 {
                        return Err("a block has a result".into());
                    }
                    let (body, end) = self.body(depth + 1)?;
                    match (opcode, end) {
                        (0x02, End::End) => Op::Block(body),
                        (0x03, End::End) => Op::Loop(body),
                        (0x04, End::End) => Op::If(body, Vec::new()),
                        (0x04, End::Else) => match self.body(depth + 1)? {
                            (otherwise, End::End) => Op::If(body, otherwise),
                            _ => return Err("an if has two elses".into()),
                        },
                        _ => return Err("an else without its if".into()),
                    }
                }
                0x05 => return Ok((out, End::Else)),
                0x0b => return Ok((out, End::End)),
                0x0c => Op::Br(self.u32()?),
                0x0d => Op::BrIf(self.u32()?),
                0x0f => Op::Return,
                0x10 => Op::Call(self.u32()?),
                0x11 => {
                    let _type = self.u32()?;
                    if self.byte()? != 0 {
                        return Err("there is more than one table".into());
                    }
                    Op::CallIndirect
                }
                0x1a => Op::Drop,
                0x20 => Op::Get(self.u32()?),
                0x21 => Op::Set(self.u32()?),
                0x22 => Op::Tee(self.u32()?),
                0x28 | 0x29 | 0x2c..=0x35 => {
                    let _align = self.u32()?;
                    Op::Load(opcode, self.u32()?)
                }
                0x36 | 0x37 | 0x3a..=0x3e => {
                    let _align = self.u32()?;
                    Op::Store(opcode, self.u32()?)
                }
                0x3f => {
                    self.byte()?;
                    Op::MemorySize
                }
                0x40 => {
                    self.byte()?;
                    Op::MemoryGrow
                }
                0x41 => Op::I32(self.signed()? as u32),
                0x42 => Op::I64(self.signed()? as u64),
                0x45..=0x5a | 0x67..=0x8a | 0xa7 | 0xac | 0xad => Op::Num(opcode),
                _ => return Err(format!("instruction 0x{opcode:02x} is not known")),
            });
        }
    }
}
