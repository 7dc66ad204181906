//! Reading and writing encoded messages field by field, without decoding them.

use prost::bytes::BufMut;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, key_len, skip_field,
};
use prost::{DecodeError, encoding::encoded_len_varint};

/// One field of an encoded message.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    /// The field number.
    pub tag: u32,
    /// The key and the value, as in the message.
    pub whole: &'a [u8],
    /// The value of a length-delimited field; empty for any other.
    pub value: &'a [u8],
}

/// The fields of an encoded message, in their order in the message.
#[must_use]
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields(message)
}

/// See [`fields`].
#[derive(Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.field())
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<Field<'a>, DecodeError> {
        let start = self.0;
        let (tag, wire_type) = decode_key(&mut self.0)?;
        let mut value: &[u8] = &[];
        if wire_type == WireType::LengthDelimited {
            let mut peek = self.0;
            let length = usize::try_from(decode_varint(&mut peek)?).unwrap_or(usize::MAX);
            value = peek.get(..length).unwrap_or_default(); // If it is truncated, `skip_field` fails.
        }
        skip_field(wire_type, tag, &mut self.0, DecodeContext::default())?;
        Ok(Field { tag, whole: &start[..start.len() - self.0.len()], value })
    }
}

/// The value of the first field with this number, which must be length-delimited.
///
/// # Errors
/// If the message is malformed before the field.
pub fn find(message: &[u8], tag: u32) -> Result<Option<&[u8]>, DecodeError> {
    for field in fields(message) {
        let field = field?;
        if field.tag == tag {
            return Ok(Some(field.value));
        }
    }
    Ok(None)
}

/// The bytes of a length-delimited field with a value of `length` bytes.
#[must_use]
pub fn delimited_len(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

/// Writes the key and length of a length-delimited field. The caller writes the value.
pub fn put_delimited_header(tag: u32, length: usize, out: &mut impl BufMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

/// Writes a length-delimited field.
pub fn put_delimited(tag: u32, value: &[u8], out: &mut impl BufMut) {
    put_delimited_header(tag, value.len(), out);
    out.put_slice(value);
}
