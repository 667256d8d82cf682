package fsm

import (
	"errors"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"
)

// maxName is the most bytes in a user name, as given, shown or folded.
const maxName = 64

// Why a name is refused.
var (
	errNameEmpty = errors.New("the name is empty")
	errNameLong  = errors.New("the name is longer than 64 bytes")
	errNameComma = errors.New("the name has a comma")
	errNameChars = errors.New("the name is not a PRECIS username (RFC 8265)")
)

// Fold checks a user name and returns the key under which the user is stored,
// which ignores case, and the name as it is shown. It depends on the Unicode
// tables of this build, so it is called where entries are made and never where
// they are applied.
func Fold(name string) (key, shown string, err error) {
	switch {
	case name == "":
		return "", "", errNameEmpty
	case len(name) > maxName:
		return "", "", errNameLong
	case strings.Contains(name, ","):
		return "", "", errNameComma
	case !utf8.ValidString(name):
		return "", "", errNameChars
	}
	if plain(name) {
		return strings.ToLower(name), name, nil
	}
	if shown, err = precis.UsernameCasePreserved.String(name); err != nil {
		return "", "", errNameChars
	}
	if key, err = precis.UsernameCaseMapped.String(shown); err != nil || !settled(key, shown) {
		return "", "", errNameChars
	}
	switch {
	case len(shown) > maxName || len(key) > maxName:
		return "", "", errNameLong
	case strings.Contains(shown, ",") || strings.Contains(key, ","): // a full-width comma, for one
		return "", "", errNameComma
	}
	return key, shown, nil
}

// settled reports whether folding what has been folded changes nothing, which
// PRECIS does not promise for all of Unicode: what a list shows must be a name
// of the same user.
func settled(key, shown string) bool {
	again, err := precis.UsernameCasePreserved.String(shown)
	if err != nil || again != shown {
		return false
	}
	again, err = precis.UsernameCaseMapped.String(key)
	return err == nil && again == key
}

// plain reports whether PRECIS does nothing to the name but map its case: it is
// all printable ASCII.
func plain(name string) bool {
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' {
			return false
		}
	}
	return true
}
