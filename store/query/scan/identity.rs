//! What is asked, as something that answers can be remembered by.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Literal;
use xxhash_rust::xxh3::Xxh3;

/// A question that takes more bytes is not worth it: each answer is kept with its question.
const BYTES_MAX: usize = 64 << 10;

/// Two of them are equal only if the same is asked. Their text alone does not tell: values that
/// differ can be written alike, as `['a, b']` and `['a', 'b']` are.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    inner: Arc<Inner>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Inner {
    text: String,
    /// The values in it, in the order in which they stand.
    literals: Vec<ScalarValue>,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner) || self.inner == other.inner
    }
}

impl Identity {
    /// Of `exprs`, and of what else `text` says. `None` if they are too long to remember.
    pub(super) fn of<'a>(
        text: String,
        exprs: impl Iterator<Item = &'a Arc<dyn PhysicalExpr>>,
    ) -> Result<Option<Self>> {
        let mut literals = Vec::new();
        let mut bytes = text.len();
        for expr in exprs {
            expr.apply(|e| {
                if let Some(literal) = e.downcast_ref::<Literal>() {
                    bytes += literal.value().size();
                    literals.push(literal.value().clone());
                }
                let more = bytes <= BYTES_MAX;
                Ok(if more { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
            })?;
        }
        let inner = Arc::new(Inner { text, literals });
        Ok((bytes <= BYTES_MAX).then_some(Self { inner }))
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        let literals = self.inner.literals.iter().map(ScalarValue::size);
        self.inner.text.len() + literals.sum::<usize>()
    }

    /// A hash of it together with `place`.
    pub(super) fn key(&self, place: impl Hash) -> u64 {
        let mut hasher = Xxh3::new();
        self.inner.hash(&mut hasher);
        place.hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use datafusion::physical_expr::expressions::lit;

    use super::*;

    #[test]
    fn what_is_written_alike_is_not_the_same() {
        let list = |texts: &[Option<&str>]| {
            let values: Vec<ScalarValue> =
                texts.iter().map(|t| ScalarValue::Utf8(t.map(String::from))).collect();
            let kind = arrow::datatypes::DataType::Utf8;
            lit(ScalarValue::List(ScalarValue::new_list(&values, &kind, true)))
        };
        let of = |expr: &Arc<dyn PhysicalExpr>| {
            Identity::of(format!("{expr:?}"), std::iter::once(expr)).unwrap().unwrap()
        };
        let (one, two) = (list(&[Some("a, b")]), list(&[Some("a"), Some("b")]));
        assert_ne!(of(&one), of(&two));
        assert_ne!(of(&list(&[None])), of(&list(&[Some("")])));
        assert_eq!(of(&one), of(&list(&[Some("a, b")])));
        assert_eq!(of(&one).key(1), of(&list(&[Some("a, b")])).key(1));
        let long = lit("x".repeat(BYTES_MAX));
        assert!(Identity::of(String::new(), std::iter::once(&long)).unwrap().is_none());
    }
}
