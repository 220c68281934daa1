package domain

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func flowControlKinds() []Kind {
	const group = "flowcontrol.apiserver.k8s.io"
	return []Kind{
		{
			Group: group, Version: "v1", Kind: "FlowSchema", Resource: "flowschemas",
			New: func() runtime.Object { return &flowcontrolv1.FlowSchema{} },
		},
		{
			Group: group, Version: "v1", Kind: "PriorityLevelConfiguration", Resource: "prioritylevelconfigurations",
			New: func() runtime.Object { return &flowcontrolv1.PriorityLevelConfiguration{} },
		},
	}
}
