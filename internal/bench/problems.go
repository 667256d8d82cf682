package bench

import (
	"errors"
	"fmt"
	"sync"

	"github.com/parley-chat/parley"
)

// problems keeps the first error of each kind and counts the rest.
type problems struct {
	mu    sync.Mutex
	order []string
	first map[string]string
	count map[string]int
}

// add takes down an error of a command such as "send".
func (p *problems) add(what string, err error) {
	key := what
	var e *parley.Error
	if errors.As(err, &e) {
		key += " " + e.Code.String()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.first == nil {
		p.first, p.count = make(map[string]string), make(map[string]int)
	}
	if p.count[key] == 0 {
		p.order = append(p.order, key)
		p.first[key] = fmt.Sprintf("%s: %v", what, err)
	}
	p.count[key]++
}

func (p *problems) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for _, key := range p.order {
		text := p.first[key]
		if n := p.count[key]; n > 1 {
			text += fmt.Sprintf(" (%d times)", n)
		}
		list = append(list, text)
	}
	return list
}
