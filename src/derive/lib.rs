//! `#[derive(FromJson, ToJson)]` for superd's own types.
//!
//! The attributes are those of serde that superd uses, with their meaning: `rename`,
//! `rename_all = "kebab-case"`, `tag`, `transparent`, `default`, `skip`, `flatten`,
//! `skip_serializing_if` and `deserialize_with`. Any other is an error. What is made of a type is
//! a list, of its keys and its fields, for `crate::json`, which does the work once for all types;
//! serde's own derives make a parser and a writer of every type.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Code;
use quote::{format_ident, quote};
use syn::{
    parse_macro_input, Data, DataEnum, DeriveInput, Error, Fields, Ident, LitStr, Path, Result,
};

/// Reads a type from JSON.
#[proc_macro_derive(FromJson, attributes(serde))]
pub fn from_json(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand_read(&input)
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

/// Writes a type as JSON.
#[proc_macro_derive(ToJson, attributes(serde))]
pub fn to_json(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand_write(&input)
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

/// What attributes say; those of types, variants and fields in one.
#[derive(Default)]
struct Says {
    rename: Option<String>,
    kebab: bool,
    tag: Option<String>,
    /// None: it must be there. Some(None): `Default::default`.
    default: Option<Option<Path>>,
    skip: bool,
    /// Not written where this holds.
    skip_if: Option<Path>,
    flatten: bool,
    read_with: Option<Path>,
}

fn says(attrs: &[syn::Attribute]) -> Result<Says> {
    let mut says = Says::default();
    for attr in attrs.iter().filter(|a| a.path().is_ident("serde")) {
        attr.parse_nested_meta(|meta| {
            let is = |name: &str| meta.path.is_ident(name);
            let text = || meta.value()?.parse::<LitStr>();
            let path = || text()?.parse::<Path>();
            match () {
                () if is("rename") => says.rename = Some(text()?.value()),
                () if is("tag") => says.tag = Some(text()?.value()),
                () if is("rename_all") && text()?.value() == "kebab-case" => says.kebab = true,
                () if is("default") => {
                    let given = meta.input.peek(syn::Token![=]);
                    says.default = Some(given.then(path).transpose()?);
                }
                () if is("skip") => says.skip = true,
                () if is("skip_serializing_if") => says.skip_if = Some(path()?),
                () if is("flatten") => says.flatten = true,
                () if is("deserialize_with") => says.read_with = Some(path()?),
                () if is("transparent") => {} // as every struct of one unnamed field is
                () => return Err(meta.error("superd's json does not know this")),
            }
            Ok(())
        })?;
    }
    Ok(says)
}

fn kebab(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(if c == '_' {
            '-'
        } else {
            c.to_ascii_lowercase()
        });
    }
    text
}

/// The name of a field or variant in JSON.
fn name(ident: &Ident, own: &Says, of_type: &Says) -> String {
    let text = ident.to_string();
    match &own.rename {
        Some(name) => name.clone(),
        None if of_type.kebab => kebab(&text),
        None => text,
    }
}

/// What a struct or a variant has.
struct Content {
    kind: Kind,
    /// Binds each field to a name of its own.
    pattern: Code,
    /// The keys as `json::Writer::members` takes them.
    keys: String,
    /// The fields for the writer, a list of references.
    values: Code,
    /// The fields for the reader, likewise.
    places: Code,
    /// The fields as they are before they are read, in their brackets.
    blank: Code,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Unit,
    One,
    Many,
    Named,
}

impl Content {
    fn of(fields: &Fields, of_type: &Says) -> Result<Content> {
        match fields {
            Fields::Named(_) => Content::named(fields, of_type),
            _ => Ok(Content::unnamed(fields)),
        }
    }

    fn unnamed(fields: &Fields) -> Content {
        let each = (0..fields.len()).map(|n| format_ident!("at_{n}"));
        let each: Vec<Ident> = each.collect();
        let blanks = each.iter().map(|_| quote!(crate::json::FromJson::blank()));
        let (kind, keys) = match fields.len() {
            0 => (Kind::Unit, ""),
            1 => (Kind::One, "*"),
            _ => (Kind::Many, ""),
        };
        let in_brackets = |inside: Code| match kind {
            Kind::Unit => Code::new(),
            _ => quote!((#inside)),
        };
        Content {
            kind,
            keys: keys.to_owned(),
            pattern: in_brackets(quote!(#(#each),*)),
            values: quote!(#(#each,)*),
            places: quote!(#(#each,)*),
            blank: in_brackets(quote!(#(#blanks),*)),
        }
    }

    fn named(fields: &Fields, of_type: &Says) -> Result<Content> {
        let (mut pattern, mut keys, mut blank) = (Code::new(), Vec::new(), Code::new());
        let (mut values, mut places) = (Code::new(), Code::new());
        for field in fields {
            let Some(ident) = &field.ident else { continue };
            let own = says(&field.attrs)?;
            blank.extend(match &own.default {
                Some(Some(path)) => quote!(#ident: #path(),),
                None if !own.skip => quote!(#ident: crate::json::FromJson::blank(),),
                _ => quote!(#ident: Default::default(),),
            });
            if own.skip {
                continue;
            }
            let at = format_ident!("at_{ident}");
            let (mark, value) = match &own.skip_if {
                Some(_) if own.default.is_none() => {
                    return Err(Error::new_spanned(ident, "left out, but not by default"));
                }
                Some(test) => skip(test, &at),
                None if own.default.is_some() || of_type.default.is_some() => ("~", quote!(#at)),
                None => ("", quote!(#at)),
            };
            keys.push(match own.flatten {
                true => "*".to_owned(),
                false => name(ident, &own, of_type) + mark,
            });
            places.extend(match &own.read_with {
                Some(read) => quote!(&mut crate::json::With(#at, #read),),
                None => quote!(#at,),
            });
            pattern.extend(quote!(#ident: #at,));
            values.extend(quote!(#value,));
        }
        Ok(Content {
            kind: Kind::Named,
            keys: keys.join(" "),
            pattern: quote!({ #pattern .. }),
            values,
            places,
            blank: quote!({ #blank }),
        })
    }
}

/// What is left out where `test` holds: the mark of its key, and its value for the writer.
fn skip(test: &Path, at: &Ident) -> (&'static str, Code) {
    match quote!(#test).to_string().replace(' ', "").as_str() {
        "Option::is_none" => ("?", quote!(#at)),
        "String::is_empty" | "Vec::is_empty" | "std::ops::Not::not" => ("!", quote!(#at)),
        _ => ("?", quote!(&(!#test(#at)).then_some(#at))),
    }
}

/// A variant: its name in Rust and in JSON, and what it has.
struct Variant<'a> {
    ident: &'a Ident,
    name: String,
    has: Content,
}

fn variants<'a>(of: &'a DataEnum, of_type: &Says) -> Result<Vec<Variant<'a>>> {
    let variants = of.variants.iter().map(|variant| {
        let ident = &variant.ident;
        let name = name(ident, &says(&variant.attrs)?, of_type);
        let mut has = Content::of(&variant.fields, &Says::default())?;
        if let Some(tag) = &of_type.tag {
            if has.kind == Kind::Many {
                return Err(Error::new_spanned(variant, "tag on a tuple"));
            }
            has.keys = format!("{tag}={name} {}", has.keys).trim_end().to_owned();
        }
        Ok(Variant { ident, name, has })
    });
    variants.collect()
}

/// One string: a list of strings needs an entry for the loader each.
fn names(variants: &[Variant]) -> String {
    let names: Vec<&str> = variants.iter().map(|v| v.name.as_str()).collect();
    names.join(" ")
}

fn is_plain(variants: &[Variant], of_type: &Says) -> bool {
    of_type.tag.is_none() && variants.iter().all(|v| v.has.kind == Kind::Unit)
}

fn expand_read(input: &DeriveInput) -> Result<Code> {
    let of_type = says(&input.attrs)?;
    let (blank, read) = match &input.data {
        Data::Struct(of) => {
            let has = Content::of(&of.fields, &of_type)?;
            let (pattern, blank, read) = (&has.pattern, &has.blank, read(&has));
            let blank = match of_type.default {
                Some(_) => quote!(Self::default()),
                None => quote!(Self #blank),
            };
            (blank, quote!(let Self #pattern = self; #read))
        }
        Data::Enum(of) => read_variants(&variants(of, &of_type)?, &of_type)?,
        Data::Union(_) => return Err(Error::new_spanned(&input.ident, "a union")),
    };
    let ident = &input.ident;
    let (generics, with, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #generics crate::json::FromJson for #ident #with #bounds {
            fn blank() -> Self { #blank }
        }

        #[automatically_derived]
        impl #generics crate::json::Place for #ident #with #bounds {
            fn read(&mut self, from: crate::json::Node<'_>) -> Result<(), crate::json::Fault> {
                #read
            }
        }
    })
}

/// Reads the fields that `pattern` has bound, without a tag.
fn read(has: &Content) -> Code {
    let (keys, places) = (&has.keys, &has.places);
    match has.kind {
        Kind::Unit => quote!(from.nothing()),
        Kind::One => quote!(crate::json::Place::read(#places from)),
        Kind::Many => quote!(from.list(&mut [#places])),
        Kind::Named => quote!(from.members(#keys, &mut [#places])),
    }
}

/// What the type is before it is read, and what reads it: which variant it is, and then, in its
/// place, what that has.
fn read_variants(variants: &[Variant], of_type: &Says) -> Result<(Code, Code)> {
    let names = names(variants);
    let (mut blanks, mut reads) = (Code::new(), Code::new());
    for (n, Variant { ident, has, .. }) in variants.iter().enumerate() {
        let (pattern, blank, keys, places) = (&has.pattern, &has.blank, &has.keys, &has.places);
        let n = n as u32;
        // The names are as many: the last one needs no number.
        blanks.extend(match n as usize + 1 == variants.len() {
            false => quote!(#n => Self::#ident #blank,),
            true => quote!(_ => Self::#ident #blank,),
        });
        let read = match (&of_type.tag, has.kind) {
            (None, _) => read(has),
            (Some(_), Kind::Unit) => quote!(Ok(())),
            (Some(_), _) => quote!(from.members(#keys, &mut [#places])),
        };
        reads.extend(quote!(Self::#ident #pattern => #read,));
    }
    let choose = match &of_type.tag {
        Some(tag) => quote!(let which = from.tag(#tag, #names)?;),
        None if is_plain(variants, of_type) => quote!(let which = from.plain(#names)?;),
        None => quote!(let (which, from) = from.variant(#names)?;),
    };
    let read = match is_plain(variants, of_type) {
        true => quote!(Ok(())),
        false => quote!(match self { #reads }),
    };
    let simple = variants.iter().find(|v| v.has.kind == Kind::Unit);
    let Some(Variant { ident, has, .. }) = simple.or(variants.first()) else {
        return Err(Error::new(proc_macro2::Span::call_site(), "no variants"));
    };
    let blank = &has.blank;
    let read = quote!(#choose *self = match which { #blanks }; #read);
    Ok((quote!(Self::#ident #blank), read))
}

fn expand_write(input: &DeriveInput) -> Result<Code> {
    let of_type = says(&input.attrs)?;
    let write = match &input.data {
        Data::Struct(of) => {
            let has = Content::of(&of.fields, &of_type)?;
            let (pattern, keys, values) = (&has.pattern, &has.keys, &has.values);
            let write = match has.kind {
                Kind::Unit => return Err(Error::new_spanned(&input.ident, "has nothing")),
                Kind::One => quote!(crate::json::ToJson::write(#values to)),
                Kind::Many => quote!(to.list(&[#values])),
                Kind::Named => quote!(to.members(#keys, &[#values])),
            };
            quote!(let Self #pattern = self; #write)
        }
        Data::Enum(of) => write_variants(&variants(of, &of_type)?, &of_type),
        Data::Union(_) => return Err(Error::new_spanned(&input.ident, "a union")),
    };
    let ident = &input.ident;
    let (generics, with, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #generics crate::json::ToJson for #ident #with #bounds {
            fn write(&self, to: &mut crate::json::Writer<'_>) { #write }
        }
    })
}

fn write_variants(variants: &[Variant], of_type: &Says) -> Code {
    let mut arms = Code::new();
    let is_plain = is_plain(variants, of_type);
    for (n, Variant { ident, name, has }) in variants.iter().enumerate() {
        let (pattern, keys, values) = (&has.pattern, &has.keys, &has.values);
        let code = match has.kind {
            _ if is_plain => quote!(#n),
            _ if of_type.tag.is_some() => quote!(to.members(#keys, &[#values])),
            Kind::Unit => quote!(to.text(#name)),
            Kind::One => quote!(to.members(#name, &[#values])),
            Kind::Many => quote!(to.members(#name, &[&crate::json::Values(&[#values])])),
            Kind::Named => {
                quote!(to.members(#name, &[&crate::json::Members(#keys, &[#values])]))
            }
        };
        arms.extend(quote!(Self::#ident #pattern => #code,));
    }
    let names = names(variants);
    match is_plain {
        true => quote!(to.variant(#names, match self { #arms })),
        false => quote!(match self { #arms }),
    }
}
