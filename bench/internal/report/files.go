package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// figuresDir holds the sections' figures and charts, beside the page.
const figuresDir = "performance"

// Save keeps the figures of a section in the docs directory.
func (s *Section) Save(docs string) error {
	dir := filepath.Join(docs, figuresDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, s.ID+".json"), append(data, '\n'), 0o644)
}

// Load reads the figures of all sections that there are: first those that order
// names, in that order, then others by name.
func Load(docs string, order []string) ([]*Section, error) {
	files, err := filepath.Glob(filepath.Join(docs, figuresDir, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []*Section
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		s := new(Section)
		if err := json.Unmarshal(data, s); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if want := strings.TrimSuffix(filepath.Base(file), ".json"); s.ID != want {
			return nil, fmt.Errorf("%s: the section in it is called %q, not %q", file, s.ID, want)
		}
		all = append(all, s)
	}
	place := func(s *Section) int {
		if i := slices.Index(order, s.ID); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortStableFunc(all, func(a, b *Section) int { return place(a) - place(b) })
	return all, nil
}

// Render writes the page and its charts into the docs directory, and removes charts
// that no section has any more.
func Render(docs string, sections []*Section) error {
	dir := filepath.Join(docs, figuresDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string][]byte{filepath.Join(docs, "performance.md"): page(sections)}
	for _, s := range sections {
		for _, t := range s.Tables {
			if t.Chart != nil {
				files[filepath.Join(dir, t.Chart.File+".svg")] = t.draw()
			}
		}
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range old {
		if files[file] == nil {
			errs = append(errs, os.Remove(file))
		}
	}
	for name, content := range files {
		errs = append(errs, os.WriteFile(name, content, 0o644))
	}
	return errors.Join(errs...)
}
