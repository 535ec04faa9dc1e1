//! `owner/name` and `owner/name@revision`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::HubError;

/// A model's name on a hub, `owner/name`, with or without a revision: a branch, a tag or a commit.
///
/// ```
/// use mlx_embed::hub::ModelName;
///
/// let name: ModelName = "owner/name@v1.5".parse()?;
/// assert_eq!((name.repository(), name.revision()), ("owner/name", "v1.5"));
/// assert!("no-owner".parse::<ModelName>().is_err());
/// # Ok::<(), mlx_embed::hub::HubError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelName {
    repository: String,
    revision: Option<String>,
}

/// What the hub allows in a part of a name.
const LONGEST: usize = 96;

impl ModelName {
    /// The name without the revision, `owner/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The revision; `main` if the name has none.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// Whether the revision is a commit's whole hash, which never means anything else.
    pub(super) fn is_commit(&self) -> bool {
        is_commit(self.revision())
    }

    /// `model` as a hub's name, if it has that form and no file or folder has that path.
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use mlx_embed::hub::ModelName;
    ///
    /// assert!(ModelName::unless_a_path(Path::new("owner/name")).is_some());
    /// assert!(ModelName::unless_a_path(Path::new("./owner/name")).is_none());
    /// assert!(ModelName::unless_a_path(Path::new("src/hub")).is_none());
    /// ```
    pub fn unless_a_path(model: &Path) -> Option<Self> {
        // A link that leads nowhere is a path all the same.
        if model.symlink_metadata().is_ok() {
            return None;
        }
        model.to_str()?.parse().ok()
    }
}

/// Whether this is the hash of a commit, as git writes it.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn check_part(part: &str) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if part.is_empty() || !part.chars().all(allowed) {
        return Err("each part has letters, digits, `-`, `_` and `.`");
    }
    if part.starts_with(['-', '.'])
        || part.ends_with(['-', '.'])
        || part.contains("--")
        || part.contains("..")
    {
        return Err("no part begins or ends with `-` or `.`, or has two of them together");
    }
    if part.len() > LONGEST { Err("no part has more than 96 characters") } else { Ok(()) }
}

fn check_revision(revision: &str) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed);
    if revision.len() <= 255 && revision.split('/').all(is_part) {
        Ok(())
    } else {
        Err("a revision is a branch, a tag or a commit")
    }
}

impl FromStr for ModelName {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong = |reason| HubError::Name { name: text.to_owned(), reason };
        let (repository, revision) = match text.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (text, None),
        };
        let (owner, name) = repository.split_once('/').ok_or(wrong("it has no owner"))?;
        check_part(owner).and(check_part(name)).map_err(wrong)?;
        revision.map_or(Ok(()), check_revision).map_err(wrong)?;
        Ok(Self { repository: repository.to_owned(), revision: revision.map(str::to_owned) })
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_hub_has() {
        for name in ["owner/name", "Owner/name.v1_5-x", "o/n@main", "o/n@refs/pr/1", "o/n@v1.0+cpu"] {
            assert_eq!(name.parse::<ModelName>().expect(name).to_string(), name);
        }
        for name in [
            "", "name", "a/b/c", "../b", "a/..", "a/b@", "a/b@../c", "a/b@/c", "a b/c", "/a/b", "a/b/",
            "a--b/c", "-a/b", "a/b.", "C:/b", "a/b@x y", "a\\b/c", "a/b@.x",
        ] {
            let error = name.parse::<ModelName>().expect_err(name).to_string();
            assert!(error.contains("owner/name@revision"), "{error}");
        }
        assert!(format!("a/{}", "x".repeat(LONGEST + 1)).parse::<ModelName>().is_err());
    }

    #[test]
    fn a_commit_is_forty_hexadecimal_digits() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert!(format!("a/b@{commit}").parse::<ModelName>().expect("a name").is_commit());
        for other in [&commit[1..], "main", &commit.to_uppercase()] {
            assert!(!is_commit(other), "{other}");
        }
    }
}
