//! Parts of messages that newer versions may lengthen: each is written with its length, and what
//! this version does not know of it is kept and written again, so that it gets through nodes of
//! either version.

/// The most that a newer version may have added to one part, in bytes: some ids and a label.
pub const LATER_MAX: usize = 128;

/// What a newer version has added to a part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Later(pub(crate) Vec<u8>);

/// Declares a struct that may grow: its fields, then [`Later`].
macro_rules! growing {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$fdoc:meta])* pub $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        pub struct $name {
            $($(#[$fdoc])* pub $field: $ty,)*
            /// Fields of a newer version.
            pub later: $crate::grow::Later,
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::Error;
                let mut bytes = postcard::to_stdvec(&($(&self.$field,)*)).map_err(S::Error::custom)?;
                bytes.extend_from_slice(&self.later.0);
                bytes.serialize(serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use serde::de::Error;
                let bytes = Vec::<u8>::deserialize(deserializer)?;
                let (($($field,)*), later): (($($ty,)*), _) =
                    postcard::take_from_bytes(&bytes).map_err(D::Error::custom)?;
                if later.len() > $crate::grow::LATER_MAX {
                    return Err(D::Error::custom("too much was added by a newer version"));
                }
                let later = $crate::grow::Later(later.to_vec());
                Ok(Self { $($field,)* later })
            }
        }
    };
}

pub(crate) use growing;

#[cfg(test)]
#[expect(unreachable_pub, reason = "the macro makes public structs")]
mod tests {
    growing! {
        /// Version N.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Old {
            /// A field.
            pub a: u32,
            /// Another.
            pub b: String,
        }
    }
    growing! {
        /// Version N+1.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct New {
            /// A field.
            pub a: u32,
            /// Another.
            pub b: String,
            /// A later one.
            pub c: Vec<u8>,
        }
    }

    use super::Later;

    fn new(length: usize) -> New {
        New { a: 7, b: "b".into(), c: vec![9; length], later: Later::default() }
    }

    #[test]
    fn what_a_newer_version_added_gets_through_an_older_one() {
        let list = vec![new(3), new(0)];
        let bytes = postcard::to_stdvec(&list).unwrap();
        let old: Vec<Old> = postcard::from_bytes(&bytes).unwrap();
        assert_eq!((old[0].a, old[0].b.as_str(), old.len()), (7, "b", 2));
        let again: Vec<New> = postcard::from_bytes(&postcard::to_stdvec(&old).unwrap()).unwrap();
        assert_eq!(again, list);
    }

    #[test]
    fn what_is_too_short_or_too_long_is_refused() {
        let much = postcard::to_stdvec(&new(super::LATER_MAX)).unwrap();
        assert!(postcard::from_bytes::<Old>(&much).is_err());
        let old = Old { a: 7, b: "b".into(), later: Later::default() };
        let bytes = postcard::to_stdvec(&old).unwrap();
        assert!(postcard::from_bytes::<New>(&bytes).is_err());
    }
}
