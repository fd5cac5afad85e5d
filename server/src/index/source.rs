//! The JSON Lines file that is indexed: reading it and checking its lines. Blocking I/O.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::IndexError;
use crate::store::DocumentId;
use crate::store::document::{TextField, check_content};
use crate::store::identity::PointKey;

/// Bytes of one line, at most. A file without line breaks must not fill the memory.
const MAXIMUM_LINE_BYTES: u64 = 16 * 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SourceDocument {
    /// From `id` or `_id`.
    pub(super) id: DocumentId,
    /// From the text field.
    pub(super) text: String,
    /// Everything but the id.
    pub(super) payload: Map<String, Value>,
}

/// A file and a place in it.
#[derive(Clone, Debug)]
pub(super) struct Source {
    file: PathBuf,
    text_field_name: String,
    text_field: TextField,
    offset: u64,
    line: u64,
}

impl Source {
    /// The beginning of a file.
    pub(super) fn new(file: PathBuf, text_field_name: String, text_field: TextField) -> Self {
        Self { file, text_field_name, text_field, offset: 0, line: 0 }
    }

    /// Reads every line, and counts the documents.
    pub(super) fn check(mut self) -> Result<u64, IndexError> {
        let mut reader = self.open()?;
        let mut first_lines: HashMap<PointKey, u64> = HashMap::new();
        while let Some(document) = self.next(&mut reader)? {
            if let Some(first) = first_lines.insert(PointKey::of(&document.id), self.line) {
                let id = &document.id;
                return Err(
                    self.problem(format!("field \"id\": {id} was already used on line {first}; allowed: unique ids"))
                );
            }
        }
        Ok(first_lines.len() as u64)
    }

    /// The next documents, at most so many; none at the end.
    pub(super) fn batch(&mut self, size: usize) -> Result<Vec<SourceDocument>, IndexError> {
        let mut reader = self.open()?;
        let mut batch = Vec::with_capacity(size.min(1_024));
        while batch.len() < size {
            let Some(document) = self.next(&mut reader)? else { break };
            batch.push(document);
        }
        Ok(batch)
    }

    fn open(&self) -> Result<BufReader<File>, IndexError> {
        let open = || {
            let mut file = File::open(&self.file)?;
            file.seek(SeekFrom::Start(self.offset))?;
            Ok(BufReader::new(file))
        };
        open().map_err(|source| IndexError::Read { file: self.file.clone(), source })
    }

    fn problem(&self, problem: String) -> IndexError {
        IndexError::Line { file: self.file.clone(), line: self.line, problem }
    }

    /// The next document; blank lines are passed over.
    fn next(&mut self, reader: &mut impl BufRead) -> Result<Option<SourceDocument>, IndexError> {
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            let read = reader
                .by_ref()
                .take(MAXIMUM_LINE_BYTES + 1)
                .read_until(b'\n', &mut buffer)
                .map_err(|source| IndexError::Read { file: self.file.clone(), source })?;
            if read == 0 {
                return Ok(None);
            }
            self.offset += read as u64;
            self.line += 1;
            if read as u64 > MAXIMUM_LINE_BYTES {
                return Err(self.problem(format!("the line is too long; allowed: {MAXIMUM_LINE_BYTES} bytes")));
            }
            let mut line = buffer.as_slice();
            if self.line == 1 {
                line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
            }
            let line = line.trim_ascii();
            if !line.is_empty() {
                return self.parse(line).map(Some).map_err(|problem| self.problem(problem));
            }
        }
    }

    fn parse(&self, line: &[u8]) -> Result<SourceDocument, String> {
        let line = std::str::from_utf8(line)
            .map_err(|error| format!("the line is not UTF-8, from its byte {} on", error.valid_up_to() + 1))?;
        let mut payload: Map<String, Value> =
            serde_json::from_str(line).map_err(|error| format!("the line is no JSON object: {error}"))?;
        let (field, id) = match (payload.remove("id"), payload.remove("_id")) {
            (Some(id), None) => ("id", id),
            (None, Some(id)) => ("_id", id),
            (Some(_), Some(_)) => {
                return Err("fields \"id\" and \"_id\" are both given; allowed: one of them".to_owned());
            }
            (None, None) => {
                return Err("field \"id\" is missing; allowed: an unsigned integer or text, named id or _id".to_owned());
            }
        };
        let id = match id {
            Value::String(text) if !text.is_empty() => DocumentId::Text(text),
            Value::Number(number) if number.is_u64() => DocumentId::Number(number.as_u64().unwrap_or_default()),
            other => {
                return Err(format!(
                    "field {field:?} is {other}; allowed: an unsigned integer or text that is not empty"
                ));
            }
        };
        let text = self
            .text_field
            .find(&payload)
            .ok_or_else(|| format!("field {:?} is missing or no text; allowed: a string", self.text_field_name))?;
        check_content(PointKey::of(&id), &payload)?;
        Ok(SourceDocument { id, text, payload })
    }
}
