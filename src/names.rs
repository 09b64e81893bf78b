//! From a name in the database to the keys that it protects.
//!
//! Only this side is ever widened, never S3's: one more reading of a name can only save
//! an object.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::key::ObjectKey;
use crate::references::Reference;

mod error;
mod host;
mod url;

pub use error::NameError;
pub(crate) use error::{shown, shown_key, signature};
pub use host::{Host, HostError};
use url::Addresses;

/// How names are written in the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReferenceForm {
    /// A name is a key, or the end of one behind the reference prefix.
    #[default]
    Key,
    /// A name is a URL of the object.
    Url,
}

/// How names become keys, as a person configured it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRules {
    /// The bucket, whose own S3 hosts are always known.
    pub bucket: String,
    /// How names are written.
    pub form: ReferenceForm,
    /// Prepended to each name of form `key`.
    pub prefix: String,
    /// Hosts that stand for the bucket besides its own.
    pub hosts: Vec<Host>,
    /// Hosts that are not ours: their URLs name no object of the bucket.
    pub foreign_hosts: Vec<Host>,
}

impl NameRules {
    /// Whether a name's key keeps the names' order, so that an ordered query yields
    /// ordered keys.
    #[must_use]
    pub fn keep_order(&self) -> bool {
        self.form == ReferenceForm::Key
    }

    /// The name that means this key, of form `key`; `None` when no name can.
    #[must_use]
    pub fn name_of<'key>(&self, key: &'key ObjectKey) -> Option<&'key str> {
        key.as_str()
            .strip_prefix(self.prefix.as_str())
            .filter(|name| !name.is_empty())
    }

    /// The keys that a name protects: its primary key first, then its alternates. None
    /// for an empty name and for a URL of a foreign host.
    ///
    /// # Errors
    /// A name that does not fit the form.
    pub fn widen(&self, name: &str) -> Result<Vec<Reference>, NameError> {
        if name.is_empty() {
            return Ok(Vec::new());
        }
        match self.form {
            ReferenceForm::Key => {
                let key = self.key_of(name)?.into_owned();
                Ok(vec![Reference::primary(key)])
            }
            ReferenceForm::Url => self.addresses().widen(name),
        }
    }

    /// The key of a name of form `key`.
    ///
    /// # Errors
    /// A name that does not fit the form.
    pub fn key_of<'name>(&self, name: &'name str) -> Result<Cow<'name, str>, NameError> {
        if name.contains("://") {
            return Err(NameError::LooksLikeUrl(shown(name)));
        }
        if name.trim_start().starts_with(['[', '{']) {
            return Err(NameError::LooksLikeList(shown(name)));
        }
        let key = if self.prefix.is_empty() {
            Cow::Borrowed(name)
        } else {
            Cow::Owned(format!("{}{name}", self.prefix))
        };
        NameError::if_too_long(name, &key)?;
        Ok(key)
    }

    /// The one key that a name means, if it means one.
    ///
    /// # Errors
    /// A name that does not fit the form.
    pub fn primary_of(&self, name: &str) -> Result<Option<ObjectKey>, NameError> {
        let primary = match self.form {
            _ if name.is_empty() => None,
            ReferenceForm::Key => Some(Reference::primary(self.key_of(name)?)),
            ReferenceForm::Url => self.addresses().primary(name)?,
        };
        Ok(primary.map(|one| one.key))
    }

    /// What says which object a name means, as a whole key where its form is `key`; and what it says
    /// besides, behind the path of a URL.
    #[must_use]
    pub fn parts<'name>(&self, name: &'name str) -> (Cow<'name, str>, Cow<'name, str>) {
        match self.form {
            ReferenceForm::Key if self.prefix.is_empty() => (name.into(), "".into()),
            // (It may hold the prefix already.)
            ReferenceForm::Key => (format!("{}{name} {name}", self.prefix).into(), "".into()),
            ReferenceForm::Url => {
                let (path, tail) = url::parts(url::behind_scheme(name));
                (path.into(), tail)
            }
        }
    }

    fn addresses(&self) -> Addresses<'_> {
        Addresses {
            bucket: &self.bucket,
            hosts: &self.hosts,
            foreign_hosts: &self.foreign_hosts,
        }
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    pub(super) fn rules(form: ReferenceForm) -> NameRules {
        NameRules {
            bucket: "pics".to_owned(),
            form,
            prefix: String::new(),
            hosts: vec![
                Host::new("CDN.example.com").unwrap(),
                Host::new("localhost:9000/pics").unwrap(),
            ],
            foreign_hosts: vec![Host::new("avatars.example.net").unwrap()],
        }
    }

    pub(super) fn keys(name: &str) -> Vec<String> {
        rules(ReferenceForm::Url)
            .widen(name)
            .unwrap()
            .into_iter()
            .map(|reference| reference.key.as_str().to_owned())
            .collect()
    }

    pub(super) fn refused(form: ReferenceForm, name: &str) -> String {
        rules(form).widen(name).unwrap_err().to_string()
    }

    #[test]
    fn names_of_the_wrong_form_are_errors_that_name_them_without_their_query() {
        assert!(refused(ReferenceForm::Url, "a/b.png").contains("'a/b.png' is not an http"));
        for bad in [
            "ftp://cdn.example.com/a",
            " https://cdn.example.com/a",
            "https:///a",
            "https://cdn.example.com\\@h/a",
        ] {
            assert!(refused(ReferenceForm::Url, bad).contains("is not an http"));
        }
        assert!(
            refused(ReferenceForm::Url, "https://me:pw@cdn.example.com/a").starts_with(
                "the name 'https://cdn.example.com/a' has a user or a password before its host"
            )
        );
        assert!(
            refused(ReferenceForm::Url, "https://cdn.example.com/%ff.png")
                .contains("does not decode")
        );
        assert!(
            refused(ReferenceForm::Key, "https://me:pw@h/a?sig=secret")
                .contains("'https://h/a' looks like a URL")
        );
        for encoded in [
            "http%3A//h/a%3FX-Amz-Signature%3Dsecret",
            "a/x-amz-signature=secret",
        ] {
            let error = refused(ReferenceForm::Url, encoded);
            assert!(
                !error.contains("secret") && error.contains("…' is not an http"),
                "{error}"
            );
        }
        assert!(refused(ReferenceForm::Key, "[\"a.png\"]").contains("looks like JSON"));
        assert!(refused(ReferenceForm::Key, "\n {a.png}").contains("looks like JSON"));
        assert!(refused(ReferenceForm::Key, &"x".repeat(1_025)).contains("1025 bytes"));
        assert!(rules(ReferenceForm::Key).widen(&"x".repeat(1_024)).is_ok());
    }

    proptest! {
        #[test]
        fn a_prefixed_name_and_its_key_say_the_same(prefix in "[a-b/]{0,3}", name in "[a-z+%/ 고]{1,5}") {
            let rules = NameRules { prefix: prefix.clone(), ..rules(ReferenceForm::Key) };
            let widened = rules.widen(&name).unwrap();
            prop_assert_eq!(widened.len(), 1);
            prop_assert_eq!(widened[0].key.as_str(), format!("{prefix}{name}"));
            prop_assert_eq!(rules.name_of(&widened[0].key), Some(name.as_str()));
        }

        #[test]
        fn prefixing_keeps_the_order(prefix in ".{0,3}", a in "[^\\[{:]{1,4}", b in "[^\\[{:]{1,4}") {
            let rules = NameRules { prefix, ..rules(ReferenceForm::Key) };
            let key = |name: &str| rules.widen(name).unwrap()[0].key.clone();
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }

        /// However an application encodes a key into a URL, the key is protected.
        #[test]
        fn an_encoded_key_comes_back(key in "[^\u{0}]{1,40}") {
            let encoded = format!("https://pics.s3.amazonaws.com/{}", utf8_percent_encode(&key, NON_ALPHANUMERIC));
            prop_assert_eq!(&rules(ReferenceForm::Url).widen(&encoded).unwrap()[0].key, &ObjectKey::new(key));
        }
    }
}
