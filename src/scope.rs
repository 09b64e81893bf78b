//! The scope of a run: a prefix, globs, and for a part of a distributed run its key range.
//! What is out of scope is never touched.

pub use crate::glob::GlobError;
use crate::glob::Globs;
use crate::key::{KeyRange, Prefix};

/// The extensions of images that are in scope unless `--include` says otherwise.
pub const IMAGE_EXTENSIONS: [&str; 13] = [
    "jpg", "jpeg", "png", "gif", "webp", "avif", "heic", "heif", "svg", "bmp", "tif", "tiff", "ico",
];

/// Which keys a run may judge.
#[derive(Debug, Clone)]
pub struct Scope {
    prefix: Prefix,
    range: KeyRange,
    /// `None`: images.
    include: Option<Globs>,
    exclude: Globs,
}

impl Scope {
    /// The scope of these globs below the prefix. Without any `include` the keys that end
    /// in an image's extension, in any case, are included. `exclude` wins.
    ///
    /// # Errors
    /// A glob that does not parse.
    pub fn new(prefix: Prefix, include: &[String], exclude: &[String]) -> Result<Self, GlobError> {
        let include = if include.is_empty() {
            None
        } else {
            Some(Globs::new(include)?)
        };
        Ok(Self {
            prefix,
            range: KeyRange::default(),
            include,
            exclude: Globs::new(exclude)?,
        })
    }

    /// The folder that is listed.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// The same globs below another prefix.
    #[must_use]
    pub fn below(&self, prefix: Prefix) -> Self {
        Self {
            prefix,
            ..self.clone()
        }
    }

    /// The keys that are listed, of those below the prefix.
    #[must_use]
    pub fn range(&self) -> &KeyRange {
        &self.range
    }

    /// The same scope, but no key outside of the range.
    #[must_use]
    pub fn within(&self, range: KeyRange) -> Self {
        Self {
            range,
            ..self.clone()
        }
    }

    /// The globs that include, as they were given; empty where images are.
    #[must_use]
    pub fn include(&self) -> &[String] {
        self.include.as_ref().map_or(&[], Globs::texts)
    }

    /// The globs that exclude, as they were given.
    #[must_use]
    pub fn exclude(&self) -> &[String] {
        self.exclude.texts()
    }

    /// Which of the globs that exclude match the key, by their places.
    pub fn excluded_by(&self, key: &str) -> impl Iterator<Item = usize> {
        self.exclude.all_matching(key)
    }

    /// Whether the key may be judged.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        let included = self
            .include
            .as_ref()
            .map_or_else(|| is_image(key), |include| include.matches(key));
        included
            && self.prefix.contains(key)
            && self.range.contains(key)
            && !self.exclude.matches(key)
    }
}

/// Whether the last segment ends in an image's extension, in any case. The default
/// include, and asked of every object of a bucket, so it is not a glob.
fn is_image(key: &str) -> bool {
    memchr::memrchr2(b'.', b'/', key.as_bytes())
        .filter(|&at| key.as_bytes()[at] == b'.')
        .is_some_and(|at| {
            IMAGE_EXTENSIONS
                .iter()
                .any(|image| image.eq_ignore_ascii_case(&key[at + 1..]))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ObjectKey;

    fn scope(prefix: &str, include: &[&str], exclude: &[&str]) -> Scope {
        let own = |globs: &[&str]| {
            globs
                .iter()
                .map(|&glob| glob.to_owned())
                .collect::<Vec<_>>()
        };
        Scope::new(Prefix::folder(prefix), &own(include), &own(exclude)).unwrap()
    }

    #[test]
    fn each_glob_that_excludes_a_key_is_named_by_its_place() {
        let scope = scope("", &[], &["*.bak", "logos/*", "l*", "**/*.png", "[ab].png"]);
        for (key, places) in [
            ("logos/a.png", &[1, 3, 4][..]),
            ("logos/l.png", &[1, 2, 3]),
            ("x/l.bak", &[0, 2]),
            ("y.gif", &[]),
        ] {
            let mut found: Vec<usize> = scope.excluded_by(key).collect();
            found.sort_unstable();
            assert_eq!(found, places, "{key}");
            assert_eq!(scope.exclude.matches(key), !places.is_empty());
        }
    }

    #[test]
    fn images_of_any_case_are_in_scope_and_nothing_else() {
        let scope = scope("", &[], &[]);
        for extension in IMAGE_EXTENSIONS {
            assert!(scope.contains(&format!("a/b c.{extension}")), "{extension}");
            assert!(
                scope.contains(&format!("x.{}", extension.to_uppercase())),
                "{extension}"
            );
        }
        for key in [
            "a.txt",
            "png",
            "a.png.bak",
            "a.png/",
            "backup.sql",
            "a.jpgx",
            "",
        ] {
            assert!(!scope.contains(key), "{key}");
        }
    }

    #[test]
    fn a_glob_without_a_slash_matches_the_last_segment_and_one_with_a_slash_the_key() {
        let scope = scope(
            "images",
            &["*.png", "images/raw/**"],
            &["thumb_*", "images/keep/*"],
        );
        assert!(scope.contains("images/a/b.png"));
        assert!(scope.contains("images/raw/deep/x.bin"));
        assert!(!scope.contains("images/thumb_b.png"));
        assert!(!scope.contains("images/keep/b.png"));
        assert!(
            scope.contains("images/keep/deeper/b.png"),
            "* does not cross a slash"
        );
        assert!(!scope.contains("images2/b.png"));
        assert!(
            !scope.contains("images/B.PNG"),
            "an include of one's own has its own case"
        );
    }

    #[test]
    fn exclude_wins_over_include() {
        assert!(!scope("", &["*"], &["*.png"]).contains("a.png"));
    }

    #[test]
    fn a_broken_glob_is_named() {
        let error = Scope::new(Prefix::default(), &["a[".to_owned()], &[]).unwrap_err();
        assert!(error.to_string().contains("\"a[\""), "{error}");
    }

    #[test]
    fn a_scope_below_another_prefix_keeps_its_globs() {
        let images = scope("images", &["*.png", "*.jpg"], &["thumb_*"]);
        assert_eq!(images.prefix().as_str(), "images/");
        assert_eq!(images.include(), ["*.png", "*.jpg"]);
        assert_eq!(images.exclude(), ["thumb_*"]);
        let cats = images.below(Prefix::folder("images/cats"));
        assert_eq!(cats.prefix().as_str(), "images/cats/");
        assert_eq!(cats.include(), images.include());
        assert_eq!(cats.exclude(), images.exclude());
        assert!(cats.contains("images/cats/a.png") && !cats.contains("images/a.png"));
        assert!(!cats.contains("images/cats/thumb_a.png"));
        assert_eq!(
            scope("", &[], &[]).include(),
            [""; 0],
            "images need no globs"
        );
    }

    #[test]
    fn a_scope_within_a_range_ends_with_it() {
        let key = |text: &str| Some(ObjectKey::new(text));
        let all = scope("images", &[], &[]);
        assert!(all.range().is_whole());
        let range = KeyRange {
            after: key("images/b.png"),
            up_to: key("images/d.png"),
        };
        let part = all.within(range.clone());
        assert_eq!(part.range(), &range);
        for (name, inside) in [
            ("a", false),
            ("b", false),
            ("c", true),
            ("d", true),
            ("e", false),
        ] {
            let name = format!("images/{name}.png");
            assert_eq!(part.contains(&name), inside, "{name}");
            assert!(all.contains(&name));
        }
        assert!(!part.contains("images/c.txt"));
    }
}
