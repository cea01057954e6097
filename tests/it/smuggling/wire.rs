//! A reader of messages that allows one spelling of everything: what a careful sender writes. Whatever it does not take,
//! some parser could take for something else.

/// A message as it stood on the wire, but for its chunked coding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// From the first line to the empty line, which is included.
    pub head: Vec<u8>,
    /// Without its coding.
    pub body: Vec<u8>,
}

/// How a message ends that says nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// A request, or an answer that can have no body.
    AtOnce,
    /// Other answers: with the connection.
    WithTheConnection,
}

impl Message {
    /// The first line.
    pub fn line(&self) -> String {
        String::from_utf8_lossy(self.head.split(|&b| b == b'\r').next().unwrap_or_default()).into_owned()
    }

    /// The values of a field; names are compared in any case.
    pub fn values(&self, name: &str) -> Vec<String> {
        fields(&self.head).into_iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// With the values that differ from run to run replaced, for comparison.
    pub fn plain(&self) -> String {
        let mut out = String::new();
        for line in self.head.split_inclusive(|&b| b == b'\n') {
            let name = line.split(|&b| b == b':').next().unwrap_or_default();
            match name {
                b"x-request-id" | b"date" => out += &format!("{}: *⏎", String::from_utf8_lossy(name)),
                _ => out += &shown(line),
            }
        }
        out + &shown(&self.body)
    }
}

/// Bytes as the tables spell them.
pub fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\r\\n", "⏎").replace("\\\"", "\"").replace("\\'", "'")
}

/// The first message and how many bytes it took. `None`: it is not complete.
///
/// # Errors
/// What is not exactly as it should be.
pub fn read(bytes: &[u8], otherwise: Otherwise, ended: bool) -> Result<Option<(Message, usize)>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
    let head = bytes[..end].to_vec();
    let lengths = values(&head, "content-length")?;
    let codings = values(&head, "transfer-encoding")?;
    let rest = &bytes[end..];
    let (body, used) = match (&lengths[..], &codings[..]) {
        ([], []) if otherwise == Otherwise::AtOnce => (Vec::new(), 0),
        ([], []) if ended => (rest.to_vec(), rest.len()),
        ([], []) => return Ok(None),
        ([length], []) => {
            let length: usize = length.parse().map_err(|_| format!("length {length:?}"))?;
            let Some(body) = rest.get(..length) else { return Ok(None) };
            (body.to_vec(), length)
        }
        ([], [coding]) if coding == "chunked" => match chunked(rest)? {
            Some(read) => read,
            None => return Ok(None),
        },
        _ => return Err(format!("framing {lengths:?} {codings:?}")),
    };
    Ok(Some((Message { head, body }, end + used)))
}

/// The values of a field, every line of the head having been checked.
fn values(head: &[u8], wanted: &str) -> Result<Vec<String>, String> {
    let lines = head.strip_suffix(b"\r\n\r\n").ok_or("no empty line")?;
    if lines.windows(2).any(|pair| (pair[0] == b'\r') != (pair[1] == b'\n')) || lines.starts_with(b"\n") {
        return Err(format!("a bare CR or LF: {}", shown(head)));
    }
    if lines.iter().any(|&b| (b < b' ' && !b"\r\n\t".contains(&b)) || b == 0x7f) {
        return Err(format!("a control character: {}", shown(head)));
    }
    let names_are_good = fields(head).iter().all(|(name, _)| {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        !name.is_empty() && name.bytes().all(token)
    });
    if !names_are_good || lines.split(|&b| b == b'\n').skip(1).any(|line| !line.contains(&b':')) {
        return Err(format!("a name: {}", shown(head)));
    }
    Ok(fields(head).into_iter().filter(|(n, _)| n.eq_ignore_ascii_case(wanted)).map(|(_, value)| value).collect())
}

fn fields(head: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(head).into_owned();
    let lines = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())).collect()
}

/// Sizes in lower-case digits without zeros in front, no extension, no trailer.
fn chunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let rest = &bytes[at..];
        let Some(end) = find(rest, b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        let size = usize::from_str_radix(&line, 16).map_err(|_| format!("chunk size {line:?}"))?;
        if format!("{size:x}") != line {
            return Err(format!("chunk size {line:?}"));
        }
        let Some(chunk) = rest.get(end + 2..end + 2 + size + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err("a chunk without its line end".into());
        }
        body.extend_from_slice(&chunk[..size]);
        at += end + 2 + size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
