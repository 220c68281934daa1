package domain

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func batchKinds() []Kind {
	return []Kind{
		{
			Group: "batch", Version: "v1", Kind: "Job", Resource: "jobs", Namespaced: true,
			New: func() runtime.Object { return &batchv1.Job{} },
			Words: []Word{
				changed("JobCompleted", "The job did all of its work.", jobBecame(batchv1.JobComplete)),
				changed("JobFailed", "The job was given up.", jobBecame(batchv1.JobFailed)),
				changed("JobSuspended", "The job's pods were stopped until it is resumed.", func(b, a *batchv1.Job) bool {
					return suspended(a.Spec.Suspend) && !suspended(b.Spec.Suspend)
				}),
				changed("JobResumed", "The job goes on.", func(b, a *batchv1.Job) bool {
					return !suspended(a.Spec.Suspend) && suspended(b.Spec.Suspend)
				}),
				changed("JobStarted", "The job's first pod was made.", func(b, a *batchv1.Job) bool {
					return a.Status.StartTime != nil && b.Status.StartTime == nil
				}),
				changed("JobProgressed", "Pods of the job began, succeeded or failed.", func(b, a *batchv1.Job) bool {
					return b.Status.Active != a.Status.Active || b.Status.Succeeded != a.Status.Succeeded || b.Status.Failed != a.Status.Failed
				}),
			},
		},
		{
			Group: "batch", Version: "v1", Kind: "CronJob", Resource: "cronjobs", ShortNames: []string{"cj"}, Namespaced: true,
			New: func() runtime.Object { return &batchv1.CronJob{} },
			Words: []Word{
				changed("CronJobTriggered", "It was time, and a job was made.", func(b, a *batchv1.CronJob) bool {
					return !b.Status.LastScheduleTime.Equal(a.Status.LastScheduleTime)
				}),
				changed("CronJobSuspended", "No more jobs are made until it is resumed.", func(b, a *batchv1.CronJob) bool {
					return suspended(a.Spec.Suspend) && !suspended(b.Spec.Suspend)
				}),
				changed("CronJobResumed", "Jobs are made again when it is time.", func(b, a *batchv1.CronJob) bool {
					return !suspended(a.Spec.Suspend) && suspended(b.Spec.Suspend)
				}),
			},
		},
	}
}

func suspended(s *bool) bool { return s != nil && *s }

func jobBecame(t batchv1.JobConditionType) func(b, a *batchv1.Job) bool {
	is := func(j *batchv1.Job) bool {
		for i := range j.Status.Conditions {
			if c := &j.Status.Conditions[i]; c.Type == t && c.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	}
	return func(b, a *batchv1.Job) bool { return is(a) && !is(b) }
}
