package fsm

// queue is a first-in, first-out sequence that uses its memory again.
type queue[T any] struct {
	buf  []T
	head int // buf[:head] is dropped
}

func (q *queue[T]) len() int { return len(q.buf) - q.head }

// at returns the i-th element from the front.
func (q *queue[T]) at(i int) *T { return &q.buf[q.head+i] }

func (q *queue[T]) push(v T) {
	q.makeRoom(1)
	q.buf = append(q.buf, v)
}

// makeRoom moves the elements to the front if n more would not fit behind them
// and much has been dropped.
func (q *queue[T]) makeRoom(n int) {
	if len(q.buf)+n > cap(q.buf) && q.head > len(q.buf)/2 {
		n := copy(q.buf, q.buf[q.head:])
		clear(q.buf[n:])
		q.buf, q.head = q.buf[:n], 0
	}
}

// drop removes n elements from the front.
func (q *queue[T]) drop(n int) {
	clear(q.buf[q.head : q.head+n])
	q.head += n
	if q.head == len(q.buf) {
		q.buf, q.head = q.buf[:0], 0
	}
}

// clone returns a copy that shares no memory.
func (q *queue[T]) clone() queue[T] {
	return queue[T]{buf: append([]T(nil), q.buf[q.head:]...)}
}
