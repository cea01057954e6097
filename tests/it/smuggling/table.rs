//! The tables: `RFC SECTION | WHAT | COLUMNS…`, one case a line. `#` begins a comment.
//!
//! In a column `⏎` is CR LF; `\r`, `\n`, `\t`, `\0`, `\s` (space), `\\` and `\xHH` are single bytes; `«text*3»` is that text three
//! times. Any other character is its UTF-8.

/// One line.
#[derive(Debug)]
pub struct Case {
    /// Where it stands and what it is about, for whoever reads of its failure.
    pub name: String,
    /// What stands behind the name, as text.
    pub columns: Vec<String>,
}

/// The cases of a table.
pub fn cases(file: &str, text: &str) -> Vec<Case> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let cases = lines.map(|(number, line)| {
        let mut columns: Vec<_> = line.split(" | ").map(|column| column.trim_matches(' ').to_owned()).collect();
        assert!(columns.len() >= 4, "{file}:{}: too few columns", number + 1);
        let about: Vec<_> = columns.drain(..2).collect();
        Case { name: format!("{file}:{} ({}: {})", number + 1, about[0], about[1]), columns }
    });
    cases.collect()
}

/// What a column stands for.
pub fn bytes(column: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut characters = column.chars();
    while let Some(character) = characters.next() {
        match character {
            '⏎' => out.extend(b"\r\n"),
            '«' => {
                let inside: String = characters.by_ref().take_while(|c| *c != '»').collect();
                let (text, times) = inside.rsplit_once('*').expect("«text*times»");
                out.extend(bytes(text).repeat(times.parse().expect("a number of times")));
            }
            '\\' => out.push(match characters.next().expect("something behind a \\") {
                'r' => b'\r',
                'n' => b'\n',
                't' => b'\t',
                '0' => 0,
                's' => b' ',
                '\\' => b'\\',
                'x' => {
                    let digits: String = characters.by_ref().take(2).collect();
                    u8::from_str_radix(&digits, 16).expect("two hexadecimal digits")
                }
                other => panic!("\\{other} means nothing"),
            }),
            other => out.extend(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

#[test]
fn columns_are_bytes() {
    assert_eq!(bytes("a⏎\\r\\n\\t\\0\\s\\\\\\xe9«b*3»«⏎*2»"), b"a\r\n\r\n\t\0 \\\xe9bbb\r\n\r\n");
    let cases = cases("f", "# no\n\n9112 1 | a case | x | y \n");
    assert_eq!((cases.len(), &*cases[0].name, cases[0].columns.len()), (1, "f:3 (9112 1: a case)", 2));
}
