package storage

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type asOfKey struct{}

// WithAsOf binds a request to the moment at which the log stood at a position: it reads the cluster as it was then, and
// changes nothing.
func WithAsOf(ctx context.Context, position uint64) context.Context {
	return context.WithValue(ctx, asOfKey{}, position)
}

// AsOf returns the position that a request is bound to, if it is bound to one.
func AsOf(ctx context.Context) (uint64, bool) {
	p, ok := ctx.Value(asOfKey{}).(uint64)
	return p, ok
}

type momentKey struct{}

// WithMoment tells a request that is bound to the past how to find out when that was: moment is called once, when somebody wants to know.
// It returns the zero time when nothing is left that would tell.
func WithMoment(ctx context.Context, moment func() (time.Time, error)) context.Context {
	return context.WithValue(ctx, momentKey{}, sync.OnceValues(moment))
}

// Moment returns when that was to which a request is bound; the zero time when it is bound to none, or that is not known.
func Moment(ctx context.Context) (time.Time, error) {
	if moment, ok := ctx.Value(momentKey{}).(func() (time.Time, error)); ok {
		return moment()
	}
	return time.Time{}, nil
}

// RefusePast returns the error that a write gets whose request is bound to the past, and nil for any other.
func RefusePast(ctx context.Context) error {
	p, ok := AsOf(ctx)
	if !ok {
		return nil
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure,
		Code:   http.StatusForbidden,
		Reason: metav1.StatusReasonForbidden,
		Message: fmt.Sprintf("this is the cluster as it was at position %d, and the past cannot be changed; "+
			"send the change to the cluster's own address, without /at/", p),
	}}
}
