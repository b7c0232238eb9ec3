//! Services that may not be registered.

/// Names and prefixes; a pattern that ends in `*` is a prefix.
#[derive(Clone, Debug, Default)]
pub struct DenyList {
    patterns: Vec<String>,
}

impl DenyList {
    /// A list of these patterns.
    pub fn new(patterns: Vec<String>) -> Self {
        Self { patterns }
    }

    /// Whether the list names the service.
    pub fn denies(&self, service: &str) -> bool {
        self.patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => service.starts_with(prefix),
            None => service == pattern,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_prefixes() {
        let list = DenyList::new(vec!["admin".into(), "test-*".into()]);
        assert!(list.denies("admin") && list.denies("test-") && list.denies("test-a"));
        assert!(!list.denies("administrator") && !list.denies("test") && !list.denies("a-test-"));
    }
}
