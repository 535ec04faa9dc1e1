//! What a pickled state dict of plain tensors is made of, and nothing else of Python's pickle format (protocol 2).

use std::collections::BTreeMap;
use std::rc::Rc;

use safetensors::tensor::Dtype;

/// A tensor as the pickle has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) dtype: Dtype,
    /// The file of its numbers, below `data/`.
    pub(super) storage: Rc<str>,
    /// How many of these come before it.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
}

/// Bytes of a pickle: a state dict has some two hundred for a tensor, and a large model a thousand tensors.
const MOST_BYTES: usize = 1 << 19;

/// How deep tuples and dicts lie within each other: a layer's metadata in a state dict's takes three.
const DEEPEST: usize = 6;

/// Numbers of a tensor's shape.
const MOST_DIMENSIONS: usize = 32;

/// What a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    Storage(Dtype),
}

impl Global {
    fn of(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch", "FloatStorage") => Self::Storage(Dtype::F32),
            ("torch", "HalfStorage") => Self::Storage(Dtype::F16),
            ("torch", "BFloat16Storage") => Self::Storage(Dtype::BF16),
            // Of buffers beside the weights, such as the numbers of positions.
            ("torch", "DoubleStorage") => Self::Storage(Dtype::F64),
            ("torch", "LongStorage") => Self::Storage(Dtype::I64),
            ("torch", "IntStorage") => Self::Storage(Dtype::I32),
            ("torch", "ByteStorage") => Self::Storage(Dtype::U8),
            ("torch", "BoolStorage") => Self::Storage(Dtype::BOOL),
            _ => return None,
        })
    }
}

/// A value on the machine's stack.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Mark,
    Nothing,
    Bool,
    Number(i64),
    /// Shared, since the memo gives it out again and again.
    Text(Rc<str>),
    Global(Global),
    Tuple(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage {
        dtype: Dtype,
        key: Rc<str>,
    },
    Tensor(Tensor),
}

impl Value {
    /// How deep it goes.
    fn depth(&self) -> usize {
        match self {
            Self::Tuple(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Self::Dict(entries) => 1 + entries.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }

    fn index(&self) -> Option<usize> {
        match self {
            Self::Number(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }

    fn indices(&self) -> Option<Vec<usize>> {
        match self {
            Self::Tuple(items) if items.len() <= MOST_DIMENSIONS => items.iter().map(Self::index).collect(),
            _ => None,
        }
    }
}

/// Refuses a pickle that would take memory and time out of proportion to its tensors.
pub(super) fn check_length(bytes: usize) -> Result<(), String> {
    if bytes > MOST_BYTES {
        return Err(format!("has a pickle of {bytes} bytes, but at most {MOST_BYTES} are read"));
    }
    Ok(())
}

/// The tensors of a pickled state dict.
///
/// # Errors
/// What in it is no part of such a dict.
pub(super) fn tensors(pickled: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    check_length(pickled.len())?;
    let mut machine = Machine { left: pickled, stack: Vec::new(), memo: BTreeMap::new() };
    let Value::Dict(entries) = machine.run()? else { return Err("holds no state dict".into()) };
    let mut all = BTreeMap::new();
    for entry in entries {
        match entry {
            (Value::Text(name), Value::Tensor(tensor)) => all.insert(name.to_string(), tensor),
            (Value::Text(name), _) => return Err(format!("holds `{name}`, which is no tensor")),
            _ => return Err("holds an entry without a name".into()),
        };
    }
    Ok(all)
}

struct Machine<'a> {
    left: &'a [u8],
    stack: Vec<Value>,
    /// Text and names only: copies of what is made of other values could grow without end.
    memo: BTreeMap<u32, Value>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value, String> {
        loop {
            match self.byte()? {
                // PROTO
                0x80 => match self.byte()? {
                    2 => {}
                    protocol => {
                        return Err(format!("is a pickle of protocol {protocol}; torch.save writes 2"));
                    }
                },
                b'(' => self.stack.push(Value::Mark),
                b'N' => self.stack.push(Value::Nothing),
                // NEWTRUE, NEWFALSE
                0x88 | 0x89 => self.stack.push(Value::Bool),
                b'J' => {
                    let number = i32::from_le_bytes(self.bytes()?);
                    self.stack.push(Value::Number(number.into()));
                }
                b'K' => {
                    let number = self.byte()?;
                    self.stack.push(Value::Number(number.into()));
                }
                b'M' => {
                    let number = u16::from_le_bytes(self.bytes()?);
                    self.stack.push(Value::Number(number.into()));
                }
                // LONG1
                0x8a => self.long()?,
                b'X' => self.text()?,
                b'c' => self.global()?,
                b'}' => self.stack.push(Value::Dict(Vec::new())),
                b')' => self.stack.push(Value::Tuple(Vec::new())),
                count @ 0x85..=0x87 => self.tuple(usize::from(count - 0x84))?,
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Tuple(items))?;
                }
                b'Q' => self.storage()?,
                b'R' => self.call()?,
                b'b' => self.build()?,
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(vec![key, value])?;
                }
                b'u' => {
                    let entries = self.pop_to_mark()?;
                    self.set(entries)?;
                }
                b'q' => {
                    let place = self.byte()?;
                    self.keep(place.into())?;
                }
                b'r' => {
                    let place = u32::from_le_bytes(self.bytes()?);
                    self.keep(place)?;
                }
                b'h' => {
                    let place = self.byte()?;
                    self.recall(place.into())?;
                }
                b'j' => {
                    let place = u32::from_le_bytes(self.bytes()?);
                    self.recall(place)?;
                }
                b'.' => return self.pop(),
                other => {
                    return Err(format!(
                        "has the pickle instruction {other:#04x}, which no state dict needs"
                    ));
                }
            }
        }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (bytes, left) = self.left.split_first_chunk().ok_or("has a pickle that is cut short")?;
        self.left = left;
        Ok(*bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(damaged)
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        check_depth(value.depth())?;
        self.stack.push(value);
        Ok(())
    }

    /// What stands above the last mark, which goes.
    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark).ok_or_else(damaged)?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn tuple(&mut self, count: usize) -> Result<(), String> {
        let first = self.stack.len().checked_sub(count).ok_or_else(damaged)?;
        let items = self.stack.split_off(first);
        self.push(Value::Tuple(items))
    }

    /// A whole number of so many bytes, the lowest first.
    fn long(&mut self) -> Result<(), String> {
        let count = usize::from(self.byte()?);
        let (bytes, left) = self.left.split_at_checked(count).filter(|_| count <= 8).ok_or_else(damaged)?;
        self.left = left;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut all = [if negative { 0xff } else { 0 }; 8];
        all[..count].copy_from_slice(bytes);
        self.stack.push(Value::Number(i64::from_le_bytes(all)));
        Ok(())
    }

    fn text(&mut self) -> Result<(), String> {
        let length = u32::from_le_bytes(self.bytes()?) as usize;
        let (text, left) = self.left.split_at_checked(length).ok_or_else(damaged)?;
        self.left = left;
        let text = std::str::from_utf8(text).map_err(|_| damaged())?;
        self.stack.push(Value::Text(text.into()));
        Ok(())
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.left.iter().position(|&byte| byte == b'\n').ok_or_else(damaged)?;
        let (line, left) = self.left.split_at(end);
        self.left = &left[1..];
        std::str::from_utf8(line).map(str::to_owned).map_err(|_| damaged())
    }

    fn global(&mut self) -> Result<(), String> {
        let (module, name) = (self.line()?, self.line()?);
        let global = Global::of(&module, &name).ok_or_else(|| {
            format!("names `{module}.{name}`, Python code that is no part of a state dict of plain tensors and is not run")
        })?;
        self.stack.push(Value::Global(global));
        Ok(())
    }

    /// The file with a tensor's numbers: `("storage", type, name, device, how many)`.
    fn storage(&mut self) -> Result<(), String> {
        let Value::Tuple(items) = self.pop()? else { return Err(damaged()) };
        match &items[..] {
            [Value::Text(kind), Value::Global(Global::Storage(dtype)), Value::Text(key), _, _]
                if &**kind == "storage" =>
            {
                self.stack.push(Value::Storage { dtype: *dtype, key: key.clone() });
                Ok(())
            }
            _ => Err("refers to something else than a tensor's numbers".into()),
        }
    }

    /// A dict, or a tensor: `(storage, offset, shape, strides, needs gradients, hooks)`.
    fn call(&mut self) -> Result<(), String> {
        let (Value::Tuple(arguments), Value::Global(global)) = (self.pop()?, self.pop()?) else {
            return Err(damaged());
        };
        let value = match (global, &arguments[..]) {
            (Global::OrderedDict, []) => Value::Dict(Vec::new()),
            (
                Global::RebuildTensor,
                [Value::Storage { dtype, key }, offset, shape, strides, Value::Bool, _],
            ) => {
                let (Some(offset), Some(shape), Some(strides)) =
                    (offset.index(), shape.indices(), strides.indices())
                else {
                    return Err(damaged());
                };
                if !is_contiguous(&shape, &strides) {
                    return Err("holds a tensor that is not row after row; save its contiguous() copy".into());
                }
                Value::Tensor(Tensor { dtype: *dtype, storage: key.clone(), offset, shape })
            }
            _ => return Err("calls something with other arguments than in a state dict".into()),
        };
        self.push(value)
    }

    /// What a dict's attributes say (`_metadata`) is of no use.
    fn build(&mut self) -> Result<(), String> {
        match (self.pop()?, self.stack.last()) {
            (Value::Dict(_), Some(Value::Dict(_))) => Ok(()),
            _ => Err("sets the state of something else than a dict".into()),
        }
    }

    fn set(&mut self, entries: Vec<Value>) -> Result<(), String> {
        let Some(Value::Dict(mut dict)) = self.stack.pop() else { return Err(damaged()) };
        if !entries.len().is_multiple_of(2) {
            return Err(damaged());
        }
        let mut entries = entries.into_iter();
        while let (Some(key), Some(value)) = (entries.next(), entries.next()) {
            if !matches!(key, Value::Text(_) | Value::Number(_)) {
                return Err("has a dict whose keys are neither text nor numbers".into());
            }
            check_depth(1 + value.depth())?;
            dict.push((key, value));
        }
        // What it held before was looked at when it came.
        self.stack.push(Value::Dict(dict));
        Ok(())
    }

    fn keep(&mut self, place: u32) -> Result<(), String> {
        let value = self.stack.last().ok_or_else(damaged)?;
        if matches!(value, Value::Text(_) | Value::Global(_)) {
            self.memo.insert(place, value.clone());
        }
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), String> {
        let value =
            self.memo.get(&place).ok_or("refers to a value other than text or a name a second time")?;
        self.stack.push(value.clone());
        Ok(())
    }
}

fn check_depth(depth: usize) -> Result<(), String> {
    if depth > DEEPEST {
        return Err("has values within each other, deeper than in a state dict".into());
    }
    Ok(())
}

fn damaged() -> String {
    "has a damaged pickle".into()
}

/// Whether numbers lie row after row.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1_usize;
    shape.len() == strides.len()
        && shape.iter().zip(strides).rev().all(|(&size, &stride)| {
            let fits = stride == expected || size == 1;
            expected = expected.saturating_mul(size);
            fits
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The instructions of a text.
    fn text(text: &str) -> Vec<u8> {
        [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
    }

    /// A dict with one tensor, whose storage has this type, and whose shape and strides these numbers.
    fn state_dict(global: &str, shape: [u8; 2], strides: [u8; 2]) -> Vec<u8> {
        let two = |[a, b]: [u8; 2]| vec![b'K', a, b'K', b, 0x86];
        let storage = [b"(", &text("storage")[..], global.as_bytes(), &text("0"), &text("cpu"), b"K\x06tQ"];
        let tensor = [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], &storage.concat(), b"K\x00"].concat();
        let rest = [&two(shape)[..], &two(strides), b"\x89ccollections\nOrderedDict\n)RtR"].concat();
        [b"\x80\x02}", &text("weight")[..], &tensor, &rest, b"s."].concat()
    }

    #[test]
    fn a_state_dict_has_its_tensors() {
        let found = tensors(&state_dict("ctorch\nHalfStorage\n", [2, 3], [3, 1])).unwrap();
        let expected = Tensor { dtype: Dtype::F16, storage: "0".into(), offset: 0, shape: vec![2, 3] };
        assert_eq!(found, BTreeMap::from([("weight".to_owned(), expected)]));
    }

    #[test]
    fn what_else_a_pickle_can_do_is_refused() {
        let with = |global: &str| state_dict(global, [2, 3], [3, 1]);
        // GLOBAL, REDUCE: a call of the system's shell.
        let call = [b"\x80\x02cposix\nsystem\n", &text("true")[..], b"\x85R."].concat();
        let nested: Vec<u8> = [b"\x80\x02)".to_vec(), vec![0x85; 60_000], b".".to_vec()].concat();
        let cases: [(Vec<u8>, &str); 8] = [
            (call, "posix.system"),
            (with("cbuiltins\neval\n"), "builtins.eval"),
            (with("ctorch\nComplexFloatStorage\n"), "torch.ComplexFloatStorage"),
            (state_dict("ctorch\nFloatStorage\n", [2, 3], [1, 2]), "row after row"),
            (nested, "deeper"),
            // NEWOBJ
            (b"\x80\x02}\x81.".to_vec(), "0x81"),
            (b"\x80\x02}q\x00h\x00.".to_vec(), "a second time"),
            (b"\x80\x04}.".to_vec(), "protocol 4"),
        ];
        for (pickled, reason) in cases {
            let error = tensors(&pickled).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        assert!(tensors(&vec![0; MOST_BYTES + 1]).unwrap_err().contains("at most"));
        for damaged in [
            &b"."[..],
            b"u.",
            b"t.",
            b"R.",
            b"Q.",
            b"b.",
            b"s.",
            b"q\x00.",
            b"X\xff\xff\xff\xff",
            b"\x8a\x09",
            b"",
        ] {
            assert!(tensors(damaged).is_err(), "{damaged:?}");
        }
    }
}
