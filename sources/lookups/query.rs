//! In which order the rows of a query come.

use arrow::array::RecordBatch;
use weir_pipeline::lookup::in_order;

/// The rows in the order that the query says. One that says none is answered in any, and not in the
/// same each time: then they are put in the order of their values, so that the same rows are the same
/// version.
pub(super) fn arranged(rows: RecordBatch, query: &str) -> Result<RecordBatch, String> {
    match is_ordered(query) {
        true => Ok(rows),
        false => tokio::task::block_in_place(|| in_order(&rows)),
    }
}

/// Whether `query` ends with an `ORDER BY` of its own, not one within parentheses.
fn is_ordered(query: &str) -> bool {
    let bytes = query.as_bytes();
    let (mut at, mut depth, mut before_is_order) = (0, 0_u32, false);
    while let Some(byte) = bytes.get(at) {
        let rest = &query[at..];
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = match byte {
            b'\'' | b'"' | b'`' => quoted(rest, *byte),
            b'-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            b'#' => rest.find('\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            b'$' => dollar_quoted(rest),
            _ if word > 0 => {
                let is = |what: &str| rest[..word].eq_ignore_ascii_case(what);
                if depth == 0 && before_is_order && is("by") {
                    return true;
                }
                before_is_order = is("order");
                word
            }
            _ => {
                match byte {
                    b'(' => depth += 1,
                    b')' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                rest.chars().next().map_or(1, char::len_utf8)
            }
        };
        at += length;
    }
    false
}

/// Length of a text or name in quotes; a quote within is doubled, which reads as two of them.
fn quoted(rest: &str, quote: u8) -> usize {
    rest[1..].find(char::from(quote)).map_or(rest.len(), |end| end + 2)
}

/// Length of PostgreSQL's `$tag$ ... $tag$`, or of a lone `$`.
fn dollar_quoted(rest: &str) -> usize {
    let Some(end) = rest[1..].find('$') else { return 1 };
    let tag = &rest[..end + 2];
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    if !tag[1..tag.len() - 1].chars().all(is_name) || tag[1..].starts_with(|c: char| c.is_numeric())
    {
        return 1;
    }
    rest[tag.len()..].find(tag).map_or(rest.len(), |end| end + 2 * tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_order_of_the_whole_counts() {
        let ordered = [
            "SELECT a FROM t ORDER BY a",
            "select a from t order\n by (a), b limit 3",
            "SELECT 'x' || \"order\" FROM t -- (\n ORDER BY 1",
            "WITH t AS (SELECT 1) SELECT * FROM t UNION SELECT 2 /* ( */ ORDER BY 1",
            "SELECT $$ ( $$, $a$ ( $a$, $1 FROM t ORDER BY 1",
            "SELECT 'it''s (' FROM t ORDER BY 1",
        ];
        let other = [
            "SELECT a FROM t",
            "SELECT * FROM (SELECT a FROM t ORDER BY a) t",
            "SELECT row_number() OVER (ORDER BY a), array_agg(b ORDER BY c) FROM t",
            "SELECT 'ORDER BY', \"order by\", `order by` FROM t -- ORDER BY 1",
            "SELECT a FROM t /* ORDER BY */ # ORDER BY a",
            "SELECT order_by, \u{e4}order by FROM t WHERE x = $$ ORDER BY $$ AND 'open ORDER BY 1",
        ];
        for query in ordered {
            assert!(is_ordered(query), "{query}");
        }
        for query in other {
            assert!(!is_ordered(query), "{query}");
        }
    }
}
